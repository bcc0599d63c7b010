#!/usr/bin/python
"""Ansible module: who blocks whom, and the end of exactly the sessions that are named."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: database_sessions
short_description: Show who blocks whom, and end exactly the sessions that are named
description:
  - Runs on the database host. Without O(pid) and O(idle_in_transaction_s) it only looks.
  - Never ends replication, background workers, its own session, or one of another database.
  - Queries are shown without their strings and numbers.
extends_documentation_fragment: [database_host]
options:
  pid:
    description: Process of the session to end.
    type: int
  backend_start:
    description:
      - The moment it began, with all digits, as RV(tree) and RV(sessions) show it. A process number is used
        again; with this it is that session only.
    type: str
  idle_in_transaction_s:
    description: End the sessions of O(database) that are idle in a transaction for longer than these seconds.
    type: float
  cancel_wait_s:
    description:
      - A running query is cancelled, and the session terminated only when its transaction or its locks are
        still there after this many seconds. 0 terminates at once.
    type: float
    default: 5
requirements: [python3-psycopg2]
attributes:
  check_mode:
    support: full
    description: Says which sessions it would end.
  diff_mode:
    support: full
    description: Shows the sessions that are ended.
author: Stationkeeper maintainers
"""

EXAMPLES = r"""
- name: Look who blocks whom
  database_sessions:
    database: flux
  become: true
  become_user: postgres

- name: End exactly this session
  database_sessions:
    database: flux
    pid: 4711
    backend_start: 2026-11-21T22:14:03.123456+00:00
  become: true
  become_user: postgres
"""

RETURN = r"""
sessions:
  description: >-
    Client sessions of the whole server before anything was ended: pid, backend_start, database, user,
    application, client, state, transaction_s, state_s, waits_s (seconds), blocked_by and query.
  returned: success
  type: list
  elements: dict
tree:
  description: Who blocks whom, a line for each session, those that wait indented below what they wait for.
  returned: success
  type: list
  elements: str
tree_after:
  description: The same after the sessions were ended; the same as RV(tree) when none was.
  returned: success
  type: list
  elements: str
prepared:
  description: Prepared transactions. They hold locks and have no session.
  returned: success
  type: list
  elements: str
blocked:
  description: How many sessions wait for a lock, before.
  returned: success
  type: int
ended:
  description: >-
    The sessions that were (in check mode, would be) ended: pid, backend_start, user, transaction_start,
    problem (why it is still there), and by: cancelled (the query and its transaction; the session lives),
    terminated, gone (it ended by itself) or busy again (it was idle no longer, and was left alone).
  returned: success
  type: list
  elements: dict
"""

from datetime import datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE_HOST, host_settings
from ansible.module_utils.stationkeeper.database.maintenance_server import session as server_session
from ansible.module_utils.stationkeeper.database.sessions import (
    Session,
    SessionError,
    describe,
    idle,
    named,
    prepared,
    read,
    tree,
)
from ansible.module_utils.stationkeeper.database.sessions_end import end


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise SessionError(f"backend_start {text!r} must be as shown, like 2026-11-21T22:14:03.123456+00:00")
    return moment


def _chosen(params: dict[str, Any], sessions: list[Session]) -> list[Session]:
    if params["pid"] is not None:
        found = named(sessions, params["pid"], _moment(params["backend_start"]), params["database"])
        return [] if found is None else [found]
    if params["idle_in_transaction_s"] is not None:
        chosen: list[Session] = idle(sessions, params["idle_in_transaction_s"], params["database"])
        return chosen
    return []


def _end(module: AnsibleModule, connection: Any, one: Session) -> dict[str, Any]:
    params = module.params
    by, problem = "would be ended", ""
    if not module.check_mode:
        try:
            only_while_idle = params["pid"] is None
            by = end(connection, one, cancel_wait_s=params["cancel_wait_s"], only_while_idle=only_while_idle)
        except SessionError as error:
            by, problem = "", str(error)
    plain = one.as_dict()
    return {name: plain[name] for name in ("pid", "backend_start", "user", "transaction_start")} | {
        "by": by,
        "problem": problem,
    }


def _run(module: AnsibleModule) -> dict[str, Any]:
    params: dict[str, Any] = module.params
    with server_session(host_settings(params)) as connection:
        before = read(connection)
        chosen = _chosen(params, before)
        ended = [_end(module, connection, one) for one in chosen]
        hit = [item for item in ended if item["by"] not in ("gone", "busy again", "")]
        return {
            "changed": bool(hit),
            "sessions": [one.as_dict() for one in before if one.kind == "client backend"],
            "tree": tree(before),
            "tree_after": tree(read(connection)),
            "prepared": prepared(connection),
            "blocked": sum(1 for one in before if one.blocked_by),
            "ended": ended,
            "diff": {
                "before": "".join(f"{describe(one)}\n" for one in chosen),
                "after": "".join(f"{item['pid']} {item['by'] or 'is still there'}\n" for item in ended),
            },
        }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **DATABASE_HOST,
            "pid": {"type": "int"},
            "backend_start": {"type": "str"},
            "idle_in_transaction_s": {"type": "float"},
            "cancel_wait_s": {"type": "float", "default": 5},
        },
        required_together=[("pid", "backend_start")],
        mutually_exclusive=[("pid", "idle_in_transaction_s")],
        supports_check_mode=True,
    )
    for name in ("idle_in_transaction_s", "cancel_wait_s"):
        if module.params[name] is not None and not module.params[name] >= 0:
            module.fail_json(msg=f"{name} must be 0 or more")
    try:
        result = _run(module)
    except SessionError as error:
        module.fail_json(msg=str(error))
    except ImportError as error:
        module.fail_json(
            msg=missing_required_lib("psycopg2 (Debian: python3-psycopg2)"), exception=repr(error)
        )
    except Exception as error:
        # psycopg2's own classes: the driver may be missing, so they cannot be named here.
        module.fail_json(msg=f"database {module.params['database']}: {str(error).strip()}")
    problems = [item["problem"] for item in result["ended"] if item["problem"]]
    if problems:
        module.fail_json(msg="; ".join(problems), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
