#!/usr/bin/python
"""Ansible module: the monthly maintenance of a database."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: database_maintenance_monthly
short_description: Report unused indexes and sizes, and move rows of old jobs to their archive
description:
  - Runs on the database host. An index is unused when its scans, summed over the chunks of a hypertable, are
    at most O(scans). Unique indexes and those of constraints are never listed.
  - Drops only indexes that are named, and only when statistics are gathered for long enough.
  - Moves the rows of old runs of jobs in one statement, so that none is lost or there twice.
extends_documentation_fragment: [database_host]
options:
  scans:
    description: An index with at most as many scans is unused.
    type: int
    default: 0
  least_days:
    description: For so many days statistics must be gathered before an index is dropped.
    type: float
    default: 30
  drop:
    description: Indexes to drop, as the report names them.
    type: list
    elements: str
    default: []
  archive_days:
    description: Move the ended runs of jobs that began longer ago. 0 moves none.
    type: int
    default: 0
  schema:
    description: Schema of the job table.
    type: str
    default: flux
  lock_timeout_s:
    description: How long to wait for a table that somebody holds.
    type: float
    default: 5
requirements: [python3-psycopg2]
attributes:
  check_mode:
    support: full
    description: Says what would be dropped and how many rows would be moved.
  diff_mode:
    support: full
    description: Shows the definitions of the indexes that are dropped.
author: Stationkeeper maintainers
"""

EXAMPLES = r"""
- name: Look for unused indexes, and archive what jobs did before 90 days
  database_maintenance_monthly:
    database: flux
    archive_days: 90
  become: true
  become_user: postgres
"""

RETURN = r"""
standby:
  description: Whether the server is a standby. Then only sizes are told.
  returned: success
  type: bool
statistics_days:
  description: For how many days this server gathers statistics as a primary.
  returned: success
  type: float
unused:
  description: Unused indexes with name, table, scans, size (bytes), parts and definition, the largest first.
  returned: success
  type: list
  elements: dict
dropped:
  description: Indexes that were (in check mode, would be) dropped.
  returned: success
  type: list
  elements: str
moved:
  description: How many rows of jobs were (in check mode, would be) moved.
  returned: success
  type: int
sizes:
  description: Each table with bytes, index_bytes, rows (by its statistics) and parts, the largest first.
  returned: success
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE_HOST, host_settings
from ansible.module_utils.stationkeeper.database.maintenance_monthly import MonthlyError, monthly


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **DATABASE_HOST,
            "scans": {"type": "int", "default": 0},
            "least_days": {"type": "float", "default": 30},
            "drop": {"type": "list", "elements": "str", "default": []},
            "archive_days": {"type": "int", "default": 0},
            "schema": {"type": "str", "default": "flux"},
            "lock_timeout_s": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    names = ("scans", "least_days", "drop", "archive_days", "schema", "lock_timeout_s")
    try:
        report = monthly(
            host_settings(module.params),
            **{name: module.params[name] for name in names},
            check=module.check_mode,
        )
    except MonthlyError as error:
        module.fail_json(msg=str(error))
    except ImportError as error:
        module.fail_json(
            msg=missing_required_lib("psycopg2 (Debian: python3-psycopg2)"), exception=repr(error)
        )
    except Exception as error:
        # psycopg2's own classes: the driver may be missing, so they cannot be named here.
        module.fail_json(msg=f"database {module.params['database']}: {str(error).strip()}")
    definitions = {one.name: one.definition for one in report.unused}
    before = "".join(f"{definitions[name]};\n" for name in report.dropped)
    module.exit_json(
        **report.as_dict() | {"changed": bool(report.dropped or report.moved)},
        diff={"before": before + (f"{report.moved} rows of old jobs\n" if report.moved else ""), "after": ""},
    )


if __name__ == "__main__":
    main()
