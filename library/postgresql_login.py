#!/usr/bin/python
"""Ansible module: whether a PostgreSQL server accepts a login."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_login
short_description: Try a login at a PostgreSQL server
description:
  - Over TCP and TLS, with a password, from the host that it runs on. That it is refused is a result, that
    nobody answers, or that pg_hba.conf has no line for it, an error.
version_added: "0.7.0"
author: Stationkeeper
options:
  host:
    description: Address of the server.
    type: str
    default: 127.0.0.1
  port:
    description: Port of the server.
    type: int
    default: 5432
  database:
    description: Name of the database; C(replication) for a login that replicates, as in pg_hba.conf.
    type: str
    required: true
  user:
    description: The login.
    type: str
    required: true
  password:
    description: Its password.
    type: str
    required: true
requirements: [python3-psycopg2]
attributes:
  check_mode:
    description: Changes nothing, so it does the same.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Try the password before
  postgresql_login:
    database: flux
    user: flux_writer
    password: "{{ before }}"
  register: login
  failed_when: login.accepted
"""

RETURN = r"""
accepted:
  description: Whether the server let the user in.
  returned: success
  type: bool
answer:
  description: The server's words, when it did not.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.connection import parameters

_REFUSALS = ("password authentication failed", "is not permitted to log in")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "default": "127.0.0.1"},
            "port": {"type": "int", "default": 5432},
            "database": {"type": "str", "required": True},
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    try:
        import psycopg2
        from psycopg2.extras import PhysicalReplicationConnection
    except ImportError:
        module.fail_json(msg=missing_required_lib("psycopg2"))
    given = module.params
    settings = {name: given[name] for name in ("port", "user", "password")}
    settings |= {"hosts": [given["host"]], "name": given["database"], "sslmode": "require"}
    factory = PhysicalReplicationConnection if given["database"] == "replication" else None
    answer = ""
    try:
        wanted = parameters(settings, target_session_attrs="any")
        psycopg2.connect(**wanted, connection_factory=factory).close()
    except psycopg2.OperationalError as error:
        answer = str(error).strip()
        if not any(word in answer for word in _REFUSALS):
            module.fail_json(msg=answer)
    module.exit_json(changed=False, accepted=not answer, answer=answer)


if __name__ == "__main__":
    main()
