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
  - It can also look for rows that are there and cannot be trusted (O(kinds)), write what is missing into the
    gap ledger (O(record)), and copy impossible rows to the quarantine (O(quarantine)). Readings are never
    changed.
  - Finding a gap is a result, not a failure of the module. It fails when it cannot answer - the database is
    down, the registry is empty, a site is unknown, or a time has no offset.
version_added: "0.1.0"
author: Stationkeeper
options:
  database:
    description: Connection of a user that may read telemetry, and write the ledger where that is asked for.
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
    description: Length of the window that ends now. Not together with O(from), O(to) and O(incremental).
    type: float
  from:
    description: Start of the window, RFC 3339 with an offset from UTC.
    type: str
  to:
    description:
      - End of the window, RFC 3339 with an offset from UTC. Not part of the window. Needs O(from).
      - Now when left out.
    type: str
  incremental:
    description:
      - Instead of a window, what is new since each device's watermark, and the open gaps of the ledger.
      - The watermarks move with O(record).
    type: bool
    default: false
  lateness_s:
    description: With O(incremental), rows may come this many seconds late without being in the ledger.
    type: float
    default: 3600
  by_hours:
    description: Answer from the hourly coverage, and from rows where it leaves questions; the same answer.
    type: bool
    default: false
  record:
    description: Make the gap ledger agree with what is found.
    type: bool
    default: false
  kinds:
    description:
      - Also look for these kinds of rows that cannot be trusted.
      - V(stale), a heartbeat or sequence number that stands still while rows come. V(lacking), rows without a
        metric that the device's profile samples. V(impossible), values outside of what the device can have.
        V(future), rows stamped after now.
    type: list
    elements: str
    choices: [stale, lacking, impossible, future]
    default: []
  stale_rows:
    description: As many rows with the same counter are V(stale).
    type: int
    default: 5
  quarantine:
    description: Copy the rows of the kinds V(impossible) and V(future) to the quarantine. They stay readings.
    type: bool
    default: false
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
    description: Writes nothing, and says what it would write.
    support: full
  diff_mode:
    description: Shows how many entries the ledger and the quarantine get.
    support: full
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
findings:
  description: >-
    Rows that cannot be trusted, each with kind, device, site, from, to (both included), rows and reason.
  returned: success
  type: list
  elements: dict
  sample: [{kind: stale, device: WLCE-BESS-01, site: WLCE, from: "2026-01-31T12:00:00Z",
            to: "2026-01-31T12:05:00Z", rows: 300, reason: heartbeat stands still at 7}]
recorded:
  description: Entries of the ledger that are new, explained, extended, reduced or closed, each a number.
  returned: with O(record)
  type: dict
  sample: {new: 1, explained: 0, extended: 0, reduced: 0, closed: 2}
quarantined:
  description: Number of rows that are new in the quarantine.
  returned: with O(quarantine)
  type: int
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
    from stationkeeper.telemetry import source
    from stationkeeper.telemetry.check import Question, check
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
            "incremental": {"type": "bool", "default": False},
            "lateness_s": {"type": "float", "default": 3600},
            "by_hours": {"type": "bool", "default": False},
            "record": {"type": "bool", "default": False},
            "kinds": {
                "type": "list",
                "elements": "str",
                "choices": ["stale", "lacking", "impossible", "future"],
                "default": [],
            },
            "stale_rows": {"type": "int", "default": 5},
            "quarantine": {"type": "bool", "default": False},
            "weekly_windows": {"type": "dict", "default": {}},
        },
        mutually_exclusive=[("window_hours", "from"), ("window_hours", "to")],
        required_by={"to": ("from",)},
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    try:
        question = _question(params)
        connected = source.connected if question.writes and not module.check_mode else source.reading
        with connected(params["database"]) as connection:
            answer = check(connection, question, dry_run=module.check_mode)
    except source.TelemetryError as error:
        module.fail_json(msg=str(error))
    result: dict[str, Any] = {
        "changed": answer.changed,
        "sites": site_states(answer.report, params["sites"], answer.findings),
        "table": [*describe(answer.report).splitlines(), *answer.lines()],
    }
    if module._diff and answer.changed:
        result["diff"] = {"prepared": "\n".join(answer.written())}
    module.exit_json(**result, **answer.as_dict())


def _question(params: dict[str, Any]) -> Question:
    if params["quarantine"] and not params["kinds"]:
        raise source.TelemetryError("quarantine copies what kinds finds; give kinds: [impossible, future]")
    start, end = _window(params)
    return Question(
        start=start,
        end=end,
        **{
            key: params[key]
            for key in (
                *("k", "settle_s", "lateness_s", "schema", "by_hours"),
                *("kinds", "stale_rows", "record", "quarantine"),
            )
        },
        sites=params["sites"] or None,
        weekly=weekly_windows(params["weekly_windows"]),
    )


def _window(params: dict[str, Any]) -> tuple[datetime | None, datetime | None]:
    given = [name for name in ("window_hours", "from") if params[name] is not None]
    if params["incremental"]:
        if given:
            raise source.TelemetryError(f"incremental takes no window; leave {given[0]} out")
        return None, None
    if not given:
        raise source.TelemetryError("one of the following is required: window_hours, from, incremental")
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
