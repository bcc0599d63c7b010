#!/usr/bin/python
"""Ansible module: missing telemetry of the registered devices."""

from __future__ import annotations

DOCUMENTATION = r"""
module: telemetry_gaps
short_description: Find missing telemetry, for each registered device and by its own cadence
description:
  - Runs on the control node. Asks the database which rows are missing in a window and returns them as
    intervals with an estimated number. Devices that sent nothing at all are found too, since the registry
    says who should have sent.
  - A gap in planned maintenance (module M(maintenance_record)), in a weekly maintenance window, or of samples
    that a controller has given up, is explained - it is returned with its explanation and counted apart. The
    part of a gap that no explanation covers stays a gap.
  - Finding a gap is a result, not a failure of the module. It fails when it cannot answer - the database is
    down, the registry is empty, a site is unknown, or a time has no offset.
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
  window_hours:
    description: Length of the window that ends now. Not together with O(from) and O(to).
    type: float
  from:
    description: Start of the window, RFC 3339 with an offset from UTC.
    type: str
  to:
    description:
      - End of the window, RFC 3339 with an offset from UTC. Not part of the window. Needs O(from).
      - Now when left out.
    type: str
  k:
    description: Two rows that are more than this many cadences apart have a gap between them.
    type: float
    default: 1.5
  settle_s:
    description: The window ends at most this many seconds before now; later rows may still be on their way.
    type: float
    default: 60
  weekly_windows:
    description:
      - Weekly maintenance windows as a mapping from a site to a list, each with C(name), C(days), C(start),
        C(end) and C(time_zone) like the controller's component C(maintenance_mode) has them.
      - They stand in the station's configuration, not in the database, so the caller has to give them.
    type: dict
    default: {}
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
- name: Find what is missing of the last day
  telemetry_gaps:
    database: "{{ stationkeeper_database | combine(reader) }}"
    window_hours: 24
  vars:
    reader: {user: flux_reader, password: "{{ secret_flux_reader_password }}"}
  delegate_to: localhost
"""

RETURN = r"""
gaps:
  description: Number of gaps of all devices that nobody can explain.
  returned: success
  type: int
  sample: 1
missing:
  description: Estimated number of rows missing in these gaps.
  returned: success
  type: int
  sample: 12
explained_gaps:
  description: Number of explained gaps of all devices.
  returned: success
  type: int
  sample: 1
explained_missing:
  description: Estimated number of rows missing in the explained gaps.
  returned: success
  type: int
  sample: 30
expected:
  description: Number of rows that the cadences ask for.
  returned: success
  type: int
present:
  description: Number of rows that are there.
  returned: success
  type: int
from:
  description: Start of the window.
  returned: success
  type: str
settled_to:
  description: Where the window really ended.
  returned: success
  type: str
idle_sites:
  description: Sites that were asked for and had no device in service.
  returned: success
  type: list
  elements: str
devices:
  description: >-
    For each device its id, name, site, type, profile, cadence_s, state (complete, explained, gaps or
    silent), expected, present, missing, explained_missing, and the lists gaps and explained with from, to,
    missing and open (no row since). An explained one has an explanation with kind (maintenance,
    weekly_window or known_gap), text, from and to.
  returned: success
  type: list
  elements: dict
sites:
  description: >-
    For each site a state (ok or failed), a message, and the names of the devices with gaps that nobody can
    explain.
  returned: success
  type: dict
  sample: {WLCE: {state: ok, message: "2 devices complete, 86400 rows", devices: []}}
table:
  description: The same as lines for a terminal.
  returned: success
  type: list
  elements: str
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE

try:
    from stationkeeper.telemetry import gaps, source
    from stationkeeper.telemetry.explanations import weekly_windows
    from stationkeeper.telemetry.presentation import describe, site_states

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
            "window_hours": {"type": "float"},
            "from": {"type": "str"},
            "to": {"type": "str"},
            "k": {"type": "float", "default": 1.5},
            "settle_s": {"type": "float", "default": 60},
            "weekly_windows": {"type": "dict", "default": {}},
        },
        mutually_exclusive=[("window_hours", "from"), ("window_hours", "to")],
        required_by={"to": ("from",)},
        required_one_of=[("window_hours", "from")],
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    try:
        start, end = _window(params)
        weekly = weekly_windows(params["weekly_windows"])
        with source.reading(params["database"]) as connection:
            report = gaps.find_gaps(
                connection,
                start,
                end,
                sites=params["sites"] or None,
                k=params["k"],
                settle_s=params["settle_s"],
                schema=params["schema"],
                weekly=weekly,
            )
    except source.TelemetryError as error:
        module.fail_json(msg=str(error))
    states = site_states(report, params["sites"])
    module.exit_json(changed=False, sites=states, table=describe(report).splitlines(), **report.as_dict())


def _window(params: dict[str, Any]) -> tuple[datetime, datetime]:
    if params["from"] is not None:
        end = source.parse_time(params["to"]) if params["to"] is not None else datetime.now(UTC)
        return source.parse_time(params["from"]), end
    if not 0 < params["window_hours"] <= 24 * 366:
        raise source.TelemetryError(
            f"window_hours is {params['window_hours']:g}; it must be above 0, at most a year"
        )
    end = datetime.now(UTC)
    return end - timedelta(hours=params["window_hours"]), end


if __name__ == "__main__":
    main()
