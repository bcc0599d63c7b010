#!/usr/bin/python
"""Ansible module: what has to be done to add or remove devices."""

from __future__ import annotations

DOCUMENTATION = r"""
module: device_plan
short_description: Compare the declared devices with the registry
description:
  - Runs on the control node and changes nothing. Returns for each target station what adding or removing
    devices comes to, and every problem that forbids it.
  - A problem is a result, not a failure of the module. It fails when the registry cannot be read.

version_added: "0.1.0"
author: Stationkeeper
options:
  database:
    description: Connection of a database user that may read the registry.
  system:
    description: Name of the system; part of every device's identifier.
    type: str
    required: true
  stations:
    description: For each station of the inventory its C(site) and its C(devices) (station_devices).
    type: dict
    required: true
  targets:
    description: The stations to plan for.
    type: list
    elements: str
    required: true
  devices:
    description:
      - Names of devices. With O(intent=add) these of the declared ones, all of them when empty.
      - With O(intent=remove) the devices to retire, at least one.
    type: list
    elements: str
    default: []
  intent:
    description: What the plan is for.
    type: str
    choices: [add, remove]
    required: true
  enable_writes:
    description: Whether devices in commissioning are to be commanded from now on.
    type: bool
    default: false
  commissioned_elsewhere:
    description: >-
      Whether O(enable_writes) is planned without a report of M(device_commissioning) on this control node, in
      C(commissioning) of the state directory.
    type: bool
    default: false
extends_documentation_fragment: [database]
attributes:
  check_mode:
    description: Reads only, so it does the same.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
requirements:
  - the Python package C(stationkeeper) on the control node
"""

EXAMPLES = r"""
- name: Find out what is to be added
  device_plan:
    database: "{{ stationkeeper_database | combine(reader) }}"
    system: flux
    stations: "{{ hostvars | device_stations(groups['stations']) }}"
    targets: [wlce]
    intent: add
  delegate_to: localhost
"""

RETURN = r"""
now:
  description: Time of the database, RFC 3339 in UTC, taken before the comparison.
  returned: success
  type: str
stations:
  description: >-
    For each target its problems (sentences), the device lists of its configuration before and after, and the
    registry rows. For V(add) the names in new, enabling and serving, and changes; for V(remove) the items in
    leaving and held, and the names in retired.
  returned: success
  type: dict
"""

from dataclasses import asdict
from datetime import UTC
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE

try:
    from stationkeeper.commissioning.session import commissioned
    from stationkeeper.devices.adding import plan_addition
    from stationkeeper.devices.declarations import Station
    from stationkeeper.devices.removing import plan_removal
    from stationkeeper.registry import rows as registry
    from stationkeeper.telemetry.source import TelemetryError, reading

    MISSING = None
except ImportError as error:
    MISSING = str(error)


def _registry(database: dict[str, Any]) -> tuple[list[Any], str]:
    """Return the registry's rows and the database's time before they were read."""
    with reading(database) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT now()")
            now = str(cursor.fetchall()[0][0].astimezone(UTC).isoformat())
        rows = registry.read(connection)
    if rows is None:
        raise TelemetryError("the database has no registry yet: run site.yml first")
    return rows, now


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "dict", "required": True, "options": DATABASE},
            "system": {"type": "str", "required": True},
            "stations": {"type": "dict", "required": True},
            "targets": {"type": "list", "elements": "str", "required": True},
            "devices": {"type": "list", "elements": "str", "default": []},
            "intent": {"type": "str", "choices": ["add", "remove"], "required": True},
            "enable_writes": {"type": "bool", "default": False},
            "commissioned_elsewhere": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    if params["intent"] == "remove" and not params["devices"]:
        module.fail_json(msg="devices is empty: name the devices that are to be retired")
    try:
        stations = [Station.of(name, values) for name, values in params["stations"].items()]
    except (KeyError, TypeError) as error:
        module.fail_json(msg=f"stations: a station has no {error}; it needs site and devices")
    try:
        rows, now = _registry(params["database"])
    except TelemetryError as error:
        module.fail_json(msg=str(error))
    targets, names, system = params["targets"], params["devices"], params["system"]
    if params["intent"] == "remove":
        removals = plan_removal(system, stations, rows, targets, names)
        found = {station: asdict(plan) for station, plan in removals.items()}
    else:
        additions = plan_addition(
            system,
            stations,
            rows,
            targets,
            names,
            enable_writes=params["enable_writes"],
            commissioned=None if params["commissioned_elsewhere"] else commissioned(),
        )
        found = {station: {**asdict(plan), "changes": plan.changes} for station, plan in additions.items()}
    module.exit_json(changed=False, now=now, stations=found)


if __name__ == "__main__":
    main()
