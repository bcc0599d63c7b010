#!/usr/bin/python
"""Ansible module: recover missing telemetry from other places, with proof."""

from __future__ import annotations

DOCUMENTATION = r"""
module: telemetry_backfill
short_description: Recover missing telemetry and prove it
description:
  - Runs on the control node. Takes the open gaps of the ledger, newest first, and asks the sources in
    their order.
  - Each slice (a day or 50,000 rows at most) is one transaction. Count and checksum of every hour are
    equal in the source and in the table before it is committed.
  - Rows that are stored are never changed. Other values under the same key are written to
    C(mg_backfill_conflict).
  - Spans whose raw readings were dropped by retention are refused. The rollup is computed again where
    rows were added.
  - A second run adds nothing. A run that was ended goes on where it was.
version_added: "0.2.0"
author: Stationkeeper
options:
  database:
    description: Connection of a database user that may write the ledger and add readings.
    type: dict
    required: true
    suboptions: &connection
      hosts:
        description: Hosts; libpq takes the one that is the primary.
        type: list
        elements: str
        required: true
      port:
        description: TCP port.
        type: int
        default: 5432
      name:
        description: Name of the database.
        type: str
        required: true
      user:
        description: Database user.
        type: str
        required: true
      password:
        description: Password of that user.
        type: str
      sslmode:
        description: Mode of TLS as libpq understands it.
        type: str
        default: prefer
        choices: [disable, allow, prefer, require, verify-ca, verify-full]
      sslrootcert:
        description: File with the certificates of the authorities that O(database.sslmode) verifies with.
        type: path
      channel_binding:
        description: With V(require) TLS must end at the server that knows the password.
        type: str
        default: prefer
        choices: [disable, prefer, require]
  schema:
    description: Schema of the telemetry tables.
    type: str
    default: flux
  sources:
    description: Where rows may be had, in the order in which they are asked.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name for provenance and reports.
        type: str
        required: true
      kind:
        description: What it is.
        type: str
        required: true
        choices: [postgresql, archive, bigquery]
      database:
        description: Connection of a V(postgresql) source; its user needs to read only.
        type: dict
        suboptions: *connection
      directory:
        description: Directory of an V(archive), or of several below it.
        type: path
      dataset:
        description: Dataset of a V(bigquery) source as C(project.dataset).
        type: str
  sites:
    description: Only devices of these sites. All when empty.
    type: list
    elements: str
    default: []
  from:
    description: >-
      Record in the ledger what is missing from here on, before anything is recovered. RFC 3339 with an
      offset.
    type: str
  to:
    description: End of that window, not part of it. Now when left out. Needs O(from).
    type: str
  settle_s:
    description: The window ends at most this many seconds before now.
    type: float
    default: 60
  weekly_windows:
    description: Weekly maintenance windows by site, as M(telemetry_gaps) has them.
    type: dict
    default: {}
  give_up:
    description: >-
      Close gaps that no source can fill as unrecoverable, with this reason. They stay open without it.
    type: str
  rows_per_s:
    description: Go no faster than this.
    type: float
  max_lag_mib:
    description: Stop when a replica is further behind the primary than this.
    type: float
  workers:
    description: Gaps that are worked on at the same time.
    type: int
    default: 2
attributes:
  check_mode:
    description: Lists the spans and how many rows each source has for them, and writes nothing.
    support: full
  diff_mode:
    description: The rows are not shown.
    support: none
requirements:
  - the Python package C(stationkeeper) on the control node
"""

EXAMPLES = r"""
- name: Recover what the second database has
  telemetry_backfill:
    database: "{{ stationkeeper_database | combine(operator) }}"
    sources:
      - {name: second, kind: postgresql, database: "{{ second_database }}"}
      - {name: cold, kind: archive, directory: /srv/archive}
    from: "2026-01-05T00:00:00Z"
  delegate_to: localhost
"""

RETURN = r"""
planned:
  description: >-
    In check mode, each span with device, site, from, to, expected, rows (by source) and refused (why
    not).
  returned: check mode
  type: list
  elements: dict
rows_in:
  description: Rows that the sources offered.
  returned: success, not in check mode
  type: int
rows_new:
  description: Rows that were added.
  returned: success, not in check mode
  type: int
conflicts:
  description: Offered rows with other values than the stored ones.
  returned: success, not in check mode
  type: int
entries:
  description: Number of ledger entries by the state in which they were left.
  returned: success, not in check mode
  type: dict
failed_sources:
  description: Sources that could not answer any more, with the reason.
  returned: success, not in check mode
  type: dict
stopped:
  description: Why it ended early, if it did.
  returned: success, not in check mode
  type: str
totals:
  description: >-
    Rows of the window by what became of them; expected is the sum of present, recovered, explained and
    open.
  returned: with O(from), not in check mode
  type: dict
  sample: {expected: 86400, present: 80000, recovered: 6300, explained: 100, open: 0, nominal: 86400}
table:
  description: The same as lines for a terminal.
  returned: success
  type: list
  elements: str
"""

from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE

try:
    from stationkeeper.telemetry.backfill.command import summary
    from stationkeeper.telemetry.backfill.engine import Options
    from stationkeeper.telemetry.backfill.pacing import Throttle
    from stationkeeper.telemetry.backfill.plan import describe
    from stationkeeper.telemetry.backfill.run import Scope, SourceSpec, foresee, recover_all
    from stationkeeper.telemetry.explanations import weekly_windows
    from stationkeeper.telemetry.source import TelemetryError, parse_time

    MISSING = None
except ImportError as error:
    MISSING = str(error)

WHERE = {"postgresql": "database", "archive": "directory", "bigquery": "dataset"}
SOURCE = {
    "name": {"type": "str", "required": True},
    "kind": {"type": "str", "required": True, "choices": list(WHERE)},
    "database": {"type": "dict", "options": DATABASE},
    "directory": {"type": "path"},
    "dataset": {"type": "str"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "dict", "required": True, "options": DATABASE},
            "schema": {"type": "str", "default": "flux"},
            "sources": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": SOURCE,
                "required_if": [("kind", kind, [option]) for kind, option in WHERE.items()],
            },
            "sites": {"type": "list", "elements": "str", "default": []},
            "from": {"type": "str"},
            "to": {"type": "str"},
            "settle_s": {"type": "float", "default": 60},
            "weekly_windows": {"type": "dict", "default": {}},
            "give_up": {"type": "str"},
            "rows_per_s": {"type": "float"},
            "max_lag_mib": {"type": "float"},
            "workers": {"type": "int", "default": 2},
        },
        required_by={"to": ("from",)},
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    try:
        module.exit_json(**(_foresee(params) if module.check_mode else _recover(params)))
    except TelemetryError as error:
        module.fail_json(msg=str(error))


def _foresee(params: dict[str, Any]) -> dict[str, Any]:
    planned = foresee(params["database"], _sources(params), _scope(params), schema=params["schema"])
    rows = sum(max(one.rows.values()) for one in planned)
    return {
        "changed": rows > 0,
        "planned": [one.as_dict() for one in planned],
        "table": describe(planned),
    }


def _recover(params: dict[str, Any]) -> dict[str, Any]:
    limit = params["max_lag_mib"]
    options = Options(
        schema=params["schema"],
        sites=params["sites"] or None,
        max_lag_bytes=None if limit is None else int(limit * 2**20),
        give_up=params["give_up"] or None,
    )
    result = recover_all(
        params["database"],
        _sources(params),
        _scope(params),
        options,
        workers=params["workers"],
        throttle=Throttle(params["rows_per_s"]),
    )
    changed = result.outcome.rows_new > 0 or bool(set(result.outcome.entries) - {"open"})
    return {"changed": changed, "table": summary(result), **result.as_dict()}


def _sources(params: dict[str, Any]) -> list[Any]:
    return [SourceSpec(one["name"], one["kind"], one[WHERE[one["kind"]]]) for one in params["sources"]]


def _scope(params: dict[str, Any]) -> Any:
    window = None
    if params["from"] is not None:
        end = parse_time(params["to"]) if params["to"] is not None else datetime.now(UTC)
        window = (parse_time(params["from"]), end)
    return Scope(
        sites=params["sites"] or None,
        window=window,
        weekly=weekly_windows(params["weekly_windows"]),
        settle_s=params["settle_s"],
    )


if __name__ == "__main__":
    main()
