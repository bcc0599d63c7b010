#!/usr/bin/python
"""Ansible module: age of the last telemetry row of the registered devices."""

from __future__ import annotations

DOCUMENTATION = r"""
module: telemetry_freshness
short_description: Ask how old the last telemetry row of each registered device is
description:
  - Runs on the control node. The age is judged by the device's own cadence. A device that has never sent a
    row is found too, since the registry says who should send.
  - A late or silent device is a result, not a failure of the module. It fails when it cannot answer - the
    database is down, the registry is empty or a site is unknown.
version_added: "0.1.0"
author: Stationkeeper
options:
  database:
    description: Connection of a user that may read telemetry.
  schema:
    description: Schema of the telemetry tables.
    type: str
    default: flux
  sites:
    description: Only devices of these sites. All when empty.
    type: list
    elements: str
    default: []
  late_cadences:
    description: A device is late when it has not sent for this many cadences (plus O(settle_s)).
    type: float
    default: 3
  silent_cadences:
    description: A device is silent when it has not sent for this many cadences (plus O(settle_s)).
    type: float
    default: 10
  settle_s:
    description: Seconds that a row may take to arrive.
    type: float
    default: 30
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
- name: Ask how fresh the telemetry is
  telemetry_freshness:
    database: "{{ stationkeeper_database | combine(reader) }}"
  vars:
    reader: {user: flux_reader, password: "{{ secret_flux_reader_password }}"}
  delegate_to: localhost
"""

RETURN = r"""
devices:
  description: >-
    For each device in service its id, name, site, type, profile, cadence_s, state (ok, late, silent or
    never), last (RFC 3339, UTC), age_s and message.
  returned: success
  type: list
  elements: dict
counts:
  description: Number of devices in each state.
  returned: success
  type: dict
  sample: {ok: 5, late: 0, silent: 1, never: 0}
sites:
  description: >-
    For each site its number of devices, how many of them are in each state, newest (time of its newest row,
    RFC 3339 in UTC) and oldest_age_s (of its device that sent longest ago).
  returned: success
  type: dict
  sample:
    WLCE: {devices: 2, ok: 2, late: 0, silent: 0, never: 0, newest: "2026-01-05T12:00:00Z", oldest_age_s: 61}
checks:
  description: The same as health checks, each with name, state (ok, degraded or critical) and message.
  returned: success
  type: list
  elements: dict
  sample: [{name: telemetry, state: critical, message: WLCE-BESS-01 has never sent a row}]
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE

try:
    from stationkeeper.telemetry import freshness, source

    MISSING = None
except ImportError as error:
    MISSING = str(error)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "dict", "required": True, "options": DATABASE},
            "schema": {"type": "str", "default": "flux"},
            "sites": {"type": "list", "elements": "str", "default": []},
            "late_cadences": {"type": "float", "default": 3},
            "silent_cadences": {"type": "float", "default": 10},
            "settle_s": {"type": "float", "default": 30},
        },
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    limits = {name: params[name] for name in ("late_cadences", "silent_cadences", "settle_s")}
    try:
        with source.reading(params["database"]) as connection:
            found = freshness.ask(
                connection,
                sites=params["sites"] or None,
                limits=freshness.Limits(**limits),
                schema=params["schema"],
            )
    except source.TelemetryError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        devices=[entry.as_dict() for entry in found],
        counts={state: sum(entry.state == state for entry in found) for state in freshness.STATES},
        sites=freshness.by_site(found),
        checks=[
            {"name": "telemetry", "state": freshness.HEALTH[entry.state], "message": entry.message}
            for entry in found
        ],
    )


if __name__ == "__main__":
    main()
