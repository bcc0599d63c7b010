#!/usr/bin/python
"""Ansible module: the weekly maintenance of a database."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: database_maintenance
short_description: Refresh rollups, vacuum, analyse and reindex what is due
description:
  - Runs on the database host and judges by the server's own statistics. Nothing due is nothing changed. A
    standby is left alone.
  - Drops what an interrupted REINDEX CONCURRENTLY left; refreshes the rollup; vacuums and analyses tables and
    chunks with dead rows, of great age or without statistics; rebuilds bloated indexes beside their use, each
    chunk's on its own.
  - Bloat is measured where the extension pgstattuple is in the database, otherwise estimated.
  - Fails when something due could not be done, or had no effect, with what keeps it.
extends_documentation_fragment: [database_host]
options:
  rollup:
    description: The rollup to refresh over the last days.
    type: dict
    suboptions:
      days:
        description: How many days.
        type: int
        required: true
      function:
        description: Function of a span, C(schema.function), that returns how many buckets changed.
        type: str
      view:
        description: Continuous aggregate to refresh, where there is no function.
        type: str
      role:
        description: Role that refreshes.
        type: str
  dead_rows:
    description: Dead, changed or inserted rows of a table from which on a vacuum may be due.
    type: int
    default: 1000
  dead_percent:
    description: Part of a table's rows that must be dead as well. Of changed and inserted ones 20 at least.
    type: float
    default: 10
  freeze_age:
    description: Age in transactions from which on a table is frozen. Autovacuum is forced at 200 million.
    type: int
    default: 150000000
  bloat_percent:
    description: Part of an index that a rebuild must give back.
    type: float
    default: 40
  bloat_mb:
    description: What it must give back at least, in MiB.
    type: float
    default: 16
  time_limit_s:
    description:
      - Nothing is begun after this many seconds, and what runs then is cancelled, and left for the next time.
    type: float
    default: 3600
  lock_timeout_s:
    description: How long to wait for a table that somebody holds.
    type: float
    default: 5
requirements: [python3-psycopg2]
attributes:
  check_mode:
    support: full
    description: Lists what is due.
  diff_mode:
    support: full
    description: Shows what is due and what was done.
author: Stationkeeper maintainers
"""

EXAMPLES = r"""
- name: Maintain the database
  database_maintenance:
    database: flux
    rollup: {days: 7, function: flux.refresh_meter_readings_5m, role: flux_owner}
    time_limit_s: 1800
  become: true
  become_user: postgres
"""

RETURN = r"""
standby:
  description: Whether the server is a standby. Then nothing else was looked at.
  returned: always
  type: bool
planned:
  description: What is due.
  returned: always
  type: list
  elements: str
done:
  description: What was done and changed something.
  returned: always
  type: list
  elements: str
left:
  description: What is left for the next time, since the time was over.
  returned: always
  type: list
  elements: str
problems:
  description: What could not be done, or had no effect. The module fails with them.
  returned: always
  type: list
  elements: str
bloat_by:
  description: How bloat was found, C(pgstattuple) or C(estimate).
  returned: always
  type: str
freed_bytes:
  description: What indexes are smaller now.
  returned: always
  type: int
before:
  description: The database's bytes, indexes_bytes, dead_rows and age (transactions) before.
  returned: always
  type: dict
after:
  description: The same afterwards.
  returned: always
  type: dict
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE_HOST, host_settings
from ansible.module_utils.stationkeeper.database.maintenance import MaintenanceError, Rollup, maintain
from ansible.module_utils.stationkeeper.database.maintenance_plan import Limits

_LIMITS = {
    "dead_rows": {"type": "int", "default": 1000},
    "dead_percent": {"type": "float", "default": 10},
    "freeze_age": {"type": "int", "default": 150_000_000},
    "bloat_percent": {"type": "float", "default": 40},
    "bloat_mb": {"type": "float", "default": 16},
}
_LEAST_LOCK_TIMEOUT_S = 0.1


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **DATABASE_HOST,
            "rollup": {
                "type": "dict",
                "options": {
                    "days": {"type": "int", "required": True},
                    "function": {"type": "str"},
                    "view": {"type": "str"},
                    "role": {"type": "str"},
                },
                "required_one_of": [("function", "view")],
            },
            **_LIMITS,
            "time_limit_s": {"type": "float", "default": 3600},
            "lock_timeout_s": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    params = module.params
    # A time limit of 0 would be none at all for the server.
    if not params["lock_timeout_s"] >= _LEAST_LOCK_TIMEOUT_S or not params["time_limit_s"] >= 1:
        module.fail_json(msg="lock_timeout_s must be 0.1 or more, time_limit_s 1 or more")
    try:
        report = maintain(
            host_settings(params),
            Limits(**{name: params[name] for name in _LIMITS}),
            rollup=Rollup(**params["rollup"]) if params["rollup"] else None,
            time_limit_s=params["time_limit_s"],
            lock_timeout_s=params["lock_timeout_s"],
            check=module.check_mode,
        )
    except MaintenanceError as error:
        module.fail_json(msg=str(error))
    except ImportError as error:
        module.fail_json(
            msg=missing_required_lib("psycopg2 (Debian: python3-psycopg2)"), exception=repr(error)
        )
    except Exception as error:
        # psycopg2's own classes: the driver may be missing, so they cannot be named here.
        module.fail_json(msg=f"database {params['database']}: {str(error).strip()}")
    due = [what for what in report.planned if not what.startswith("refresh ")]
    result = asdict(report) | {
        "changed": bool(due if module.check_mode else report.done),
        "diff": {
            "before": "".join(f"{line}\n" for line in report.planned),
            "after": "" if module.check_mode else "".join(f"{line}\n" for line in report.done),
        },
    }
    if report.problems:
        module.fail_json(msg="; ".join(report.problems), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
