#!/usr/bin/python
"""Ansible module: one database of a restored instance, into the live server under a new name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_restore_copy
short_description: Copy a database from a restored instance to the live server under a new name
description:
  - Runs on a database host as a user that may log in to both servers by their sockets (postgres). Dumps the
    whole database of the restored instance, hypertables included, loads it into a new database of the live
    server, and compares every table's rows and newest row.
  - A database that is there is never touched. Point clients at the new one, or rename both, when it is right.
version_added: "0.5.0"
author: Stationkeeper
options:
  database:
    description: Name of the database in the restored instance.
    type: str
    required: true
  name:
    description: Name of the new database on the live server.
    type: str
    required: true
  restored:
    description: The restored instance, as M(database_restore) returns its C(connection).
    type: dict
    required: true
    suboptions:
      directory:
        description: Directory of its socket. The dump lies in it meanwhile.
        type: path
        required: true
      port:
        description: Its port.
        type: int
        required: true
  socket:
    description: Directory of the live server's socket.
    type: path
    default: /var/run/postgresql
  port:
    description: Port of the live server.
    type: int
    default: 5432
extends_documentation_fragment: [restore]
attributes:
  check_mode:
    description: Says that it would copy; the new name is not looked at.
    support: full
  diff_mode:
    description: Shows the new database.
    support: full
requirements: [python3-psycopg2]
"""

EXAMPLES = r"""
- name: Bring back the database of yesterday beside that of today
  database_restore_copy:
    database: flux
    name: flux_yesterday
    restored: {directory: /var/lib/postgresql/stationkeeper-restore/yesterday, port: 5499}
    stanza: flux
    programs: /usr/lib/postgresql/17/bin
    data_directory: /var/lib/postgresql/17/main
    config_file: /etc/postgresql/17/main/postgresql.conf
  become: true
  become_user: postgres
"""

RETURN = r"""
tables:
  description: The tables of the new database with their rows and newest row.
  returned: when it was copied
  type: list
  elements: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.restore.arguments import INSTALLATION, installation
from ansible.module_utils.stationkeeper.restore.contents import as_dicts
from ansible.module_utils.stationkeeper.restore.database_copy import copy_database
from ansible.module_utils.stationkeeper.restore.dump_make import Source
from ansible.module_utils.stationkeeper.restore.dump_restore import Target
from ansible.module_utils.stationkeeper.restore.request import RestoreError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **INSTALLATION,
            "database": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "restored": {
                "type": "dict",
                "required": True,
                "options": {
                    "directory": {"type": "path", "required": True},
                    "port": {"type": "int", "required": True},
                },
            },
            "socket": {"type": "path", "default": "/var/run/postgresql"},
            "port": {"type": "int", "default": 5432},
        },
        supports_check_mode=True,
    )
    params, restored = module.params, module.params["restored"]
    result: dict[str, Any] = {"changed": True, "diff": {"prepared": f"+ database {params['name']}\n"}}
    if module.check_mode:
        module.exit_json(**result)
    try:
        tables = copy_database(
            installation(params),
            Source(restored["directory"], restored["port"], params["database"]),
            Target(params["socket"], params["port"], params["name"]),
            Path(restored["directory"]) / "copy",
        )
    except RestoreError as error:
        module.fail_json(msg=str(error))
    except ImportError as error:
        module.fail_json(
            msg=missing_required_lib("psycopg2 (Debian: python3-psycopg2)"), exception=repr(error)
        )
    except Exception as error:
        # psycopg2's own classes: the driver may be missing, so they cannot be named here.
        module.fail_json(msg=f"database {params['name']}: {str(error).strip()}")
    module.exit_json(**result, tables=as_dicts(tables))


if __name__ == "__main__":
    main()
