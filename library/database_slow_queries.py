#!/usr/bin/python
"""Ansible module: the statements that cost a database most."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: database_slow_queries
short_description: Tell which statements cost most, with their plans, and what runs for long now
description:
  - Runs on the database host, also on a standby, and reads pg_stat_statements. Nothing is run, statements are
    explained only.
  - Statements are shown without their strings and numbers.
extends_documentation_fragment: [database_host]
options:
  limit:
    description: How many statements to tell, by whole time and by mean time.
    type: int
    default: 10
  mean_ms:
    description: A statement is slow from this mean time on.
    type: float
    default: 1000
  least_calls:
    description: Slow ones that were called less often are left out.
    type: int
    default: 1
  running_s:
    description: A query that runs for longer now is told.
    type: float
    default: 60
  plans:
    description: Tell the generic plan, from PostgreSQL 16 on.
    type: bool
    default: true
requirements: [python3-psycopg2, pg_stat_statements loaded and in the database]
attributes:
  check_mode:
    support: full
    description: Reads only, so it does the same.
  diff_mode:
    support: none
    description: Nothing changes.
author: Stationkeeper maintainers
"""

EXAMPLES = r"""
- name: Look for slow statements
  database_slow_queries:
    database: flux
  become: true
  become_user: postgres
"""

RETURN = r"""
since:
  description: Since when statements are counted.
  returned: success
  type: str
by_total:
  description: >-
    Statements with query_id, user, calls, total_ms, mean_ms, max_ms, rows, hit, read and temp_written
    (pages), query, plan (lines) and no_plan (why there is none), those that took the most time of all first.
  returned: success
  type: list
  elements: dict
by_mean:
  description: The same for those that are slow each time.
  returned: success
  type: list
  elements: dict
running:
  description: Sessions whose query runs for long now, as M(database_sessions) tells them.
  returned: success
  type: list
  elements: dict
table:
  description: The same as lines for a terminal.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE_HOST, host_settings
from ansible.module_utils.stationkeeper.database.slow_queries import SlowQueryError, slow, table


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **DATABASE_HOST,
            "limit": {"type": "int", "default": 10},
            "mean_ms": {"type": "float", "default": 1000},
            "least_calls": {"type": "int", "default": 1},
            "running_s": {"type": "float", "default": 60},
            "plans": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    names = ("limit", "mean_ms", "least_calls", "running_s", "plans")
    try:
        report = slow(host_settings(module.params), **{name: module.params[name] for name in names})
    except SlowQueryError as error:
        module.fail_json(msg=str(error))
    except ImportError as error:
        module.fail_json(
            msg=missing_required_lib("psycopg2 (Debian: python3-psycopg2)"), exception=repr(error)
        )
    except Exception as error:
        # psycopg2's own classes: the driver may be missing, so they cannot be named here.
        module.fail_json(msg=f"database {module.params['database']}: {str(error).strip()}")
    module.exit_json(
        changed=False,
        since=report.since,
        by_total=[one.as_dict() for one in report.by_total],
        by_mean=[one.as_dict() for one in report.by_mean],
        running=[one.as_dict() for one in report.running],
        table=table(report),
    )


if __name__ == "__main__":
    main()
