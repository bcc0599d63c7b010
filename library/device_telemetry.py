#!/usr/bin/python
"""Ansible module: whether devices send, and who else does."""

from __future__ import annotations

DOCUMENTATION = r"""
module: device_telemetry
short_description: Wait for the rows of devices, and report who sends without being registered
description:
  - Runs on the control node. Waits until every named device has a row that is not older than O(since).
  - Reports devices that send without being registered, that send after their retirement, and registered
    ones that never sent.
  - Silence is a result, not a failure of the module. It fails when the database cannot answer.

version_added: "0.1.0"
author: Stationkeeper
options:
  database:
    description: Connection of a database user that may read telemetry.
  devices:
    description: Names of the devices to wait for. None when empty.
    type: list
    elements: str
    default: []
  since:
    description: A row from then on counts, RFC 3339 with an offset from UTC. Required with O(devices).
    type: str
  wait_s:
    description: How long to wait for the rows, in seconds.
    type: float
    default: 0
  look_back_hours:
    description: How old a row may be to count as sent, where devices are looked for that should not send.
    type: float
    default: 168
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
- name: Wait for the first row
  device_telemetry:
    database: "{{ stationkeeper_database | combine(reader) }}"
    devices: [WLCE-BESS-02]
    since: "2026-01-31T12:00:00Z"
    wait_s: 120
  delegate_to: localhost
"""

RETURN = r"""
last:
  description: Time of each device's newest row, null where there is none.
  returned: success
  type: dict
silent:
  description: Names of the devices without a row since O(since).
  returned: success
  type: list
  elements: str
unknown:
  description: Sentences on devices that send without being registered.
  returned: success
  type: list
  elements: str
retired:
  description: Sentences on devices that send after their retirement.
  returned: success
  type: list
  elements: str
never:
  description: Sentences on registered devices in service that never sent a row.
  returned: success
  type: list
  elements: str
checks:
  description: RV(unknown) and RV(retired) as health checks, each with name, state and message.
  returned: success
  type: list
  elements: dict
  sample: [{name: registry, state: ok, message: nobody sends who should not}]
"""

from datetime import timedelta

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE

try:
    from stationkeeper.devices.telemetry import strangers, wait_for_rows
    from stationkeeper.telemetry.source import TelemetryError, parse_time, reading

    MISSING = None
except ImportError as error:
    MISSING = str(error)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "dict", "required": True, "options": DATABASE},
            "devices": {"type": "list", "elements": "str", "default": []},
            "since": {"type": "str"},
            "wait_s": {"type": "float", "default": 0},
            "look_back_hours": {"type": "float", "default": 168},
        },
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    if params["devices"] and not params["since"]:
        module.fail_json(msg="since is missing: say from when on a row of the devices counts")
    last, silent = {}, []
    try:
        if params["devices"]:
            since = parse_time(params["since"])
            last = wait_for_rows(params["database"], params["devices"], since, params["wait_s"])
            silent = sorted(name for name, time in last.items() if time is None or time < since)
        with reading(params["database"]) as connection:
            found = strangers(connection, look_back=timedelta(hours=params["look_back_hours"]))
    except TelemetryError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        last={name: time.isoformat() if time else None for name, time in last.items()},
        silent=silent,
        **found.as_dict(),
        checks=[
            {"name": "registry", "state": "degraded", "message": text}
            for text in (*found.unknown, *found.retired)
        ]
        or [{"name": "registry", "state": "ok", "message": "nobody sends who should not"}],
    )


if __name__ == "__main__":
    main()
