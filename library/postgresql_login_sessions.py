#!/usr/bin/python
"""Ansible module: end the sessions of a PostgreSQL login."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_login_sessions
short_description: End the sessions of a PostgreSQL login
description:
  - A session outlives the password that it was opened with. Ends those of a login on the server of this host.
    Clients connect again by themselves, with the login that they have now.
version_added: "0.7.0"
author: Stationkeeper
extends_documentation_fragment: [database_host]
options:
  of:
    description: The login whose sessions are ended.
    type: str
    required: true
  patience_s:
    description: How long these sessions may take to end by themselves, so that no work is interrupted.
    type: int
    default: 0
requirements: [python3-psycopg2]
attributes:
  check_mode:
    description: Counts the sessions that would end.
    support: full
  diff_mode:
    description: A number is the result.
    support: none
"""

EXAMPLES = r"""
- name: End the sessions of the login before
  postgresql_login_sessions:
    database: postgres
    of: flux_writer
    patience_s: 20
  become: true
  become_user: postgres
"""

RETURN = r"""
ended:
  description: Sessions that were ended, or would be.
  returned: success
  type: int
by_themselves:
  description: Sessions that ended while the module was patient. None in check mode, which does not wait.
  returned: success
  type: int
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE_HOST, host_settings
from ansible.module_utils.stationkeeper.database.connection import connect

_COUNT = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
#: Each is waited for: who reads the result may rely on it.
_END = (
    "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE usename = %s"
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **DATABASE_HOST,
            "of": {"type": "str", "required": True},
            "patience_s": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    try:
        import psycopg2
    except ImportError:
        module.fail_json(msg=missing_required_lib("psycopg2"))
    given = module.params
    try:
        connection = connect(host_settings(given), target_session_attrs="any")
        connection.autocommit = True
        with connection.cursor() as cursor:
            found = left = _number(cursor, _COUNT, given["of"])
            until = time.monotonic() + given["patience_s"]
            while left and not module.check_mode and time.monotonic() < until:
                time.sleep(0.2)
                left = _number(cursor, _COUNT, given["of"])
            ended = left if module.check_mode else _number(cursor, _END, given["of"])
        connection.close()
    except psycopg2.Error as error:
        module.fail_json(msg=str(error).strip())
    module.exit_json(changed=bool(ended), ended=ended, by_themselves=found - left)


def _number(cursor: Any, statement: str, login: str) -> int:
    cursor.execute(statement, (login,))
    return int(cursor.fetchone()[0])


if __name__ == "__main__":
    main()
