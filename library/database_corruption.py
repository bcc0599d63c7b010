#!/usr/bin/python
"""Ansible module: look for damage in a database, and build damaged indexes anew."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: database_corruption
short_description: Look for damage in a database with amcheck, and mend its indexes
description:
  - Runs on the database host, also on a standby. Looks at every page of every table and chunk, and whether
    every row is in every B-tree index. Names relation and block of what is damaged; for tables of readings
    also the devices and the span around it.
  - A page that the server has in its memory may hide what the disk has. What a wrong checksum told before is
    in RV(checksums).
  - Damage is a result, not a failure of the module. It fails when it could not look.
extends_documentation_fragment: [database_host]
options:
  tables:
    description: Look at these tables only, with their chunks and indexes. C(schema.table).
    type: list
    elements: str
    default: []
  mend:
    description:
      - V(reindex) builds damaged indexes of undamaged tables anew, beside their use, and looks at them again.
    type: str
    choices: [none, reindex]
    default: none
  time_limit_s:
    description: Nothing more is looked at after this many seconds.
    type: float
    default: 3600
  lock_timeout_s:
    description: How long to wait for a table that somebody holds.
    type: float
    default: 5
requirements: [python3-psycopg2, the extension amcheck in the database]
attributes:
  check_mode:
    support: full
    description: Looks, and says which indexes it would build anew.
  diff_mode:
    support: full
    description: Shows the damage before and after.
author: Stationkeeper maintainers
"""

EXAMPLES = r"""
- name: Look for damage
  database_corruption:
    database: flux
  become: true
  become_user: postgres
"""

RETURN = r"""
standby:
  description: Whether the server is a standby.
  returned: always
  type: bool
damage:
  description: >-
    Each damaged place with kind (heap or index), relation, table, block, message, mended, and for readings
    device_ids, since and until of the readable blocks around it.
  returned: always
  type: list
  elements: dict
lines:
  description: The same as lines for a terminal.
  returned: always
  type: list
  elements: str
advice:
  description: What to do next, in order. Empty without damage.
  returned: always
  type: list
  elements: str
to_mend:
  description: Damaged indexes that can be built anew.
  returned: always
  type: list
  elements: str
checksums:
  description: >-
    Whether they are on (enabled), how many pages were wrong so far (failures), the last time, and whether one
    was during this look (now).
  returned: always
  type: dict
relations:
  description: How many tables and indexes were looked at.
  returned: always
  type: int
blocks:
  description: How many pages they have.
  returned: always
  type: int
left:
  description: Relations that were not looked at, since the time was over.
  returned: always
  type: list
  elements: str
problems:
  description: What could not be looked at or not be mended.
  returned: always
  type: list
  elements: str
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE_HOST, host_settings
from ansible.module_utils.stationkeeper.database.corruption import advice, describe
from ansible.module_utils.stationkeeper.database.corruption_check import CorruptionError, look


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **DATABASE_HOST,
            "tables": {"type": "list", "elements": "str", "default": []},
            "mend": {"type": "str", "choices": ["none", "reindex"], "default": "none"},
            "time_limit_s": {"type": "float", "default": 3600},
            "lock_timeout_s": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        report = look(
            host_settings(params),
            tables=params["tables"],
            time_limit_s=params["time_limit_s"],
            lock_timeout_s=params["lock_timeout_s"],
            mend=params["mend"] == "reindex",
            check=module.check_mode,
        )
    except CorruptionError as error:
        module.fail_json(msg=str(error))
    except ImportError as error:
        module.fail_json(
            msg=missing_required_lib("psycopg2 (Debian: python3-psycopg2)"), exception=repr(error)
        )
    except Exception as error:
        # psycopg2's own classes: the driver may be missing, so they cannot be named here.
        module.fail_json(msg=f"database {params['database']}: {str(error).strip()}")
    would = module.check_mode and params["mend"] == "reindex"
    changed = bool(report.to_mend) if would else any(one.mended for one in report.damage)
    shown = [one for one in report.damage if one.relation in report.to_mend]
    module.exit_json(
        **asdict(report)
        | {
            "changed": changed,
            "damage": [one.as_dict() for one in report.damage],
            "lines": [describe(one) for one in report.damage],
            "advice": advice(report.damage, standby=report.standby),
            "diff": {
                "before": "".join(f"index {one.relation}: {one.message}\n" for one in shown)
                if changed
                else "",
                "after": "".join(f"{describe(one)}\n" for one in shown if one.mended),
            },
        }
    )


if __name__ == "__main__":
    main()
