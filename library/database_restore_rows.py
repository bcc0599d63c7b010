#!/usr/bin/python
"""Ansible module: rows of a restored instance, put back into the live table."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_restore_rows
short_description: Put rows of one table and time range back from a restored instance
description:
  - Runs on a database host as a user that may log in to both servers by their sockets (postgres). Adds the
    rows that the live table does not have, through a temporary table, one transaction for each day (UTC), and
    proves that all are there then. Rows that are there stay as they are, also with other values.
  - Refuses tables whose columns differ, a live table without a primary key, and a span of which retention has
    dropped a part.
version_added: "0.5.0"
author: Stationkeeper
options:
  database:
    description: Name of the database on both sides.
    type: str
    required: true
  table:
    description: Table with its schema.
    type: str
    required: true
  column:
    description: Column of type timestamptz that the range is about.
    type: str
    default: time
  from:
    description: Start of the range, RFC 3339 with an offset from UTC.
    type: str
    required: true
  to:
    description: End of the range, not part of it.
    type: str
    required: true
  restored:
    description: The restored instance, as M(database_restore) returns its C(connection).
    type: dict
    required: true
    suboptions:
      directory:
        description: Directory of its socket.
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
  refresh:
    description: Function of the live database that is called with the range afterwards, as for a rollup.
    type: str
attributes:
  check_mode:
    description: Counts what it would put back.
    support: full
  diff_mode:
    description: Shows the numbers of rows.
    support: full
requirements: [python3-psycopg2]
"""

EXAMPLES = r"""
- name: Put back what was deleted by mistake
  database_restore_rows:
    database: flux
    table: flux.mg_bess_readings
    from: 2026-01-31T10:00:00Z
    to: 2026-01-31T12:00:00Z
    restored: {directory: /var/lib/postgresql/stationkeeper-restore/accident, port: 5499}
  become: true
  become_user: postgres
"""

RETURN = r"""
found:
  description: Rows of the range in the restored instance.
  returned: success
  type: int
put_back:
  description: Rows that were added, or would be.
  returned: success
  type: int
other_values:
  description: Rows that the live table has with other values. They were left.
  returned: success
  type: int
"""

from contextlib import closing
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.connection import connect
from ansible.module_utils.stationkeeper.restore.request import RestoreError, parse_time
from ansible.module_utils.stationkeeper.restore.rows import Returned, Span, put_back, refresh


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "str", "required": True},
            "table": {"type": "str", "required": True},
            "column": {"type": "str", "default": "time"},
            "from": {"type": "str", "required": True},
            "to": {"type": "str", "required": True},
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
            "refresh": {"type": "str"},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        span = Span(params["table"], params["column"], parse_time(params["from"]), parse_time(params["to"]))
        returned = _run(module, span)
    except RestoreError as error:
        module.fail_json(msg=str(error))
    except ImportError as error:
        module.fail_json(
            msg=missing_required_lib("psycopg2 (Debian: python3-psycopg2)"), exception=repr(error)
        )
    except Exception as error:
        # psycopg2's own classes: the driver may be missing, so they cannot be named here.
        module.fail_json(msg=f"{params['table']}: {str(error).strip()}")
    module.exit_json(
        changed=returned.put_back > 0,
        found=returned.found,
        put_back=returned.put_back,
        other_values=returned.other_values,
        diff={"prepared": f"+{returned.put_back} rows of {params['table']}\n"} if returned.put_back else {},
    )


def _run(module: AnsibleModule, span: Span) -> Returned:
    params = module.params

    def session(directory: str, port: int, attributes: str) -> Any:
        settings = {"hosts": [directory], "port": port, "name": params["database"], "user": "postgres"}
        return connect(settings, application_name="stationkeeper-restore", target_session_attrs=attributes)

    restored = params["restored"]
    with (
        closing(session(restored["directory"], restored["port"], "any")) as source,
        closing(session(params["socket"], params["port"], "read-write")) as live,
    ):
        returned = put_back(source, live, span, dry_run=module.check_mode)
        # Also when nothing was added: a run that died before it may have added rows.
        if params["refresh"] and not module.check_mode:
            refresh(live, params["refresh"], span)
    return returned


if __name__ == "__main__":
    main()
