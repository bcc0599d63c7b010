#!/usr/bin/python
"""Ansible module: converge the roles of a PostgreSQL cluster, their passwords and memberships."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_logins
short_description: Converge the roles of a PostgreSQL cluster
description:
  - All in one transaction. Roles that are not declared, and memberships that are not, are left alone. No role
    gets SUPERUSER, CREATEDB or CREATEROLE; who has one of them, or REPLICATION undeclared, loses it.
  - A role with C(password_other) has a twin, C(<name>_b), with its rights. One of the two logs in, and while
    C(password_other) has a value, which is during a rotation, both do.
  - The server gets verifiers, no passwords, so none stands in its log or its statistics.
  - On a standby nothing is done, since it has what its primary has.
version_added: "0.7.0"
author: Stationkeeper
extends_documentation_fragment: [database_host]
options:
  users:
    description: The roles.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the role.
        type: str
        required: true
      password:
        description: Its password. A role that is there keeps its own where none is given.
        type: str
      password_other:
        description: The password of the one of the two that is not in use; empty when it may not log in.
        type: str
      suffix:
        description: What the login in use has behind the role's name.
        type: str
        choices: ["", _b]
        default: ""
      login:
        description: Whether the role may log in. With C(password_other) the passwords say so.
        type: bool
        default: true
      replication:
        description: Whether it may replicate, as standbys do.
        type: bool
        default: false
      groups:
        description: Roles that it is a member of.
        type: list
        elements: str
        default: []
requirements: [python3-psycopg2]
attributes:
  check_mode:
    description: Says what would change.
    support: full
  diff_mode:
    description: Names the roles with what changes, without a password.
    support: full
"""

EXAMPLES = r"""
- name: Converge the roles
  postgresql_logins:
    database: postgres
    users:
      - {name: flux_owner, login: false}
      - {name: flux_writer, password: "{{ secret_flux_writer_password }}"}
  become: true
  become_user: postgres
"""

RETURN = r"""
roles:
  description: For each role that differed what was done, or would be.
  returned: success
  type: dict
  sample: {flux_writer_b: [may log in, has another password]}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE_HOST, host_settings
from ansible.module_utils.stationkeeper.database.connection import connect
from ansible.module_utils.stationkeeper.database.logins import (
    Change,
    Found,
    LoginError,
    changes,
    logins,
    verifier,
)

_USER = {
    "name": {"type": "str", "required": True},
    "password": {"type": "str", "no_log": True},
    "password_other": {"type": "str", "no_log": True},
    "suffix": {"type": "str", "choices": ["", "_b"], "default": ""},
    "login": {"type": "bool", "default": True},
    "replication": {"type": "bool", "default": False},
    "groups": {"type": "list", "elements": "str", "default": []},
}
_ROLES = """
SELECT r.rolname, r.rolpassword, r.rolcanlogin, array_remove(array[
    CASE WHEN r.rolsuper THEN 'superuser' END, CASE WHEN r.rolcreatedb THEN 'createdb' END,
    CASE WHEN r.rolcreaterole THEN 'createrole' END,
    CASE WHEN r.rolreplication THEN 'replication' END], NULL),
  (SELECT coalesce(array_agg(g.rolname::text), '{}')
   FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid)
FROM pg_authid r WHERE r.rolname = ANY(%s)
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **DATABASE_HOST,
            "users": {"type": "list", "elements": "dict", "required": True, "options": _USER},
        },
        supports_check_mode=True,
    )
    try:
        import psycopg2
    except ImportError:
        module.fail_json(msg=missing_required_lib("psycopg2"))
    try:
        done = _converge(host_settings(module.params), module.params["users"], dry_run=module.check_mode)
    except (LoginError, psycopg2.Error) as error:
        module.fail_json(msg=str(error).strip())
    told = {change.login.name: change.told() for change in done}
    lines = "".join(f"{name}: {', '.join(words)}\n" for name, words in told.items())
    module.exit_json(changed=bool(told), roles=told, diff={"before": "", "after": lines})


def _converge(settings: dict[str, Any], users: list[dict[str, Any]], *, dry_run: bool) -> list[Change]:
    wanted = logins(users)
    connection = connect(settings, target_session_attrs="any")
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_is_in_recovery()")
            if cursor.fetchone() == (True,):
                return []
            cursor.execute(_ROLES, ([login.name for login in wanted],))
            found = {
                name: Found(stored, login, frozenset(groups), tuple(attributes))
                for name, stored, login, attributes, groups in cursor.fetchall()
            }
            needed = changes(wanted, found)
            if not dry_run:
                for change in needed:
                    _apply(cursor, change)
            return needed
    finally:
        connection.close()


def _apply(cursor: Any, change: Change) -> None:
    from psycopg2 import sql

    login = change.login
    name = sql.Identifier(login.name)
    if change.create or change.may_log_in or change.may_replicate or change.loses:
        statement = sql.SQL("{} ROLE {} {} {} NOSUPERUSER NOCREATEDB NOCREATEROLE").format(
            sql.SQL("CREATE" if change.create else "ALTER"),
            name,
            sql.SQL("LOGIN" if login.login else "NOLOGIN"),
            sql.SQL("REPLICATION" if login.replication else "NOREPLICATION"),
        )
        cursor.execute(statement)
    if change.password:
        stored = sql.Literal(verifier(login.password)) if login.password else sql.SQL("NULL")
        cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(name, stored))
    for group in change.join:
        cursor.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), name))


if __name__ == "__main__":
    main()
