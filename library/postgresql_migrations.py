#!/usr/bin/python
"""Ansible module: apply numbered SQL migrations to a PostgreSQL database."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: postgresql_migrations
short_description: Apply numbered SQL migrations to a PostgreSQL database
description:
  - Applies what is not applied yet, in order, each file in one transaction together with its record in
    C(ops.migrations). Sessions that migrate at the same time wait for each other.
  - Refuses a database on which an applied file was changed or is missing since.
  - An error names the file and the line.
  - In check mode a database that does not exist yet counts as empty.
extends_documentation_fragment: [database_host]
options:
  migrations:
    description: The files, as the filter C(stationkeeper_migrations) returns them.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: File name, C(NNNN_name.sql), numbered from 0001 without a gap.
        type: str
        required: true
      sql:
        description: Content of the file.
        type: str
        required: true
  owner:
    description: Role that the migrations run as and that owns what they create.
    type: str
  applied_by:
    description: Who applies them, for the record.
    type: str
    required: true
  lock_timeout:
    description: Seconds to wait for another session that migrates.
    type: int
    default: 30
requirements: [python3-psycopg2]
attributes:
  check_mode:
    support: full
    description: Lists what would be applied and changes nothing.
  diff_mode:
    support: full
    description: Shows the file names before and after.
author: Stationkeeper maintainers
"""

EXAMPLES = r"""
- name: Migrate the database
  postgresql_migrations:
    database: flux
    owner: flux_owner
    applied_by: "{{ stationkeeper_run_id }}"
    migrations: "{{ 'migrations/flux' | stationkeeper_migrations }}"
  become: true
  become_user: postgres
"""

RETURN = r"""
applied:
  description: Files that were applied, or would be in check mode.
  type: list
  elements: str
  returned: always
version:
  description: Number of the last migration of the database afterwards (in check mode, as it would be).
  type: int
  returned: always
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE_HOST, host_settings
from ansible.module_utils.stationkeeper.database.connection import connect
from ansible.module_utils.stationkeeper.database.migrations import (
    Migration,
    MigrationError,
    apply,
    parse,
    plan,
    read_applied,
)
from ansible.module_utils.stationkeeper.database.presence import exists


def _pending(module: AnsibleModule, settings: dict[str, Any], available: list[Migration]) -> list[Migration]:
    if not exists(settings):
        module.warn(f"database {settings['name']} does not exist yet: all migrations are pending")
        return available
    connection = connect(settings)
    try:
        connection.set_session(readonly=True)
        return plan(available, read_applied(connection))
    finally:
        connection.close()


def _apply(module: AnsibleModule, settings: dict[str, Any], available: list[Migration]) -> list[Migration]:
    connection = connect(settings)
    try:
        return apply(
            connection,
            available,
            applied_by=module.params["applied_by"],
            owner=module.params["owner"],
            lock_timeout_s=module.params["lock_timeout"],
        )
    finally:
        connection.close()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "migrations": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "sql": {"type": "str", "required": True},
                },
            },
            **DATABASE_HOST,
            "owner": {"type": "str"},
            "applied_by": {"type": "str", "required": True},
            "lock_timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    settings = host_settings(module.params)
    try:
        available = parse((entry["name"], entry["sql"]) for entry in module.params["migrations"])
        act = _pending if module.check_mode else _apply
        done = act(module, settings, available)
    except MigrationError as error:
        module.fail_json(msg=str(error))
    except ImportError as error:
        module.fail_json(
            msg=missing_required_lib("psycopg2 (Debian: python3-psycopg2)"), exception=repr(error)
        )
    except Exception as error:
        # psycopg2's own classes: the driver may be missing, so they cannot be named here.
        module.fail_json(msg=f"database {settings['name']}: {str(error).strip()}")
    names = [migration.file_name for migration in done]
    before = [m.file_name for m in available if m not in done]
    module.exit_json(
        changed=bool(done),
        applied=names,
        version=len(available),
        diff={"before": "\n".join([*before, ""]), "after": "\n".join([*before, *names, ""])},
    )


if __name__ == "__main__":
    main()
