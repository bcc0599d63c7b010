"""End sessions of clients, the gentle way first, and prove that they are gone.

Standard library only: Ansible ships this file to the database host.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .sessions import Session, SessionError

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

_POLL_S = 0.1
_GONE_S = 10.0

# One statement looks and signals: whatever the number belongs to by now, only this session is hit.
_SIGNAL = """
SELECT {function}(pid) FROM pg_stat_activity
WHERE pid = %(pid)s AND backend_start = %(backend_start)s AND datname = %(database)s
AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND {still}
"""
_SAME_QUERY = "xact_start IS NOT DISTINCT FROM %(transaction_start)s AND state = 'active'"
_SAME_IDLENESS = "state LIKE 'idle in transaction%%' AND state_change = %(state_change)s"

# An aborted transaction shows its start until the client rolls back, but has given its locks up. Those of a
# savepoint's outer transaction, and advisory locks of the session, stay.
_LOOK = """
SELECT state = 'active' AND xact_start IS NOT DISTINCT FROM %(transaction_start)s OR EXISTS (
    SELECT FROM pg_locks WHERE pg_locks.pid = a.pid AND granted AND locktype <> 'virtualxid'
    AND (locktype = 'advisory' OR a.xact_start = %(transaction_start)s))
FROM pg_stat_activity AS a WHERE pid = %(pid)s AND backend_start = %(backend_start)s
"""


def end(connection: Connection, session: Session, *, cancel_wait_s: float, only_while_idle: bool) -> str:
    """End a session and return how: `cancelled`, `terminated`, `gone` (by itself) or `busy again`.

    A query that runs is cancelled first. A session that has given its transaction and its locks up
    ``cancel_wait_s`` seconds later is left to its client; any other is terminated. One that is idle in its
    transaction has no query to cancel, and is terminated at once; with ``only_while_idle`` only while it has
    done nothing since it was looked at. ``connection`` is in autocommit. Raises SessionError when the session
    outlives its end by ten seconds.
    """
    values = {
        "pid": session.pid,
        "backend_start": session.backend_start,
        "database": session.database,
        "transaction_start": session.transaction_start,
        "state_change": session.state_change,
    }
    if session.state == "active" and cancel_wait_s > 0 and not only_while_idle:
        _signal(connection, "pg_cancel_backend", _SAME_QUERY, values)
        state = _wait(connection, values, cancel_wait_s, transaction=True)
        if state != "there":
            return "gone" if state == "gone" else "cancelled"
    still = _SAME_IDLENESS if only_while_idle else "true"
    if not _signal(connection, "pg_terminate_backend", still, values):
        return "busy again" if _wait(connection, values, 0, transaction=False) == "there" else "gone"
    if _wait(connection, values, _GONE_S, transaction=False) == "there":
        raise SessionError(
            f"session {session.pid} since {session.backend_start.isoformat()} does not end. It may be in the "
            "kernel, waiting for a disk (state D in ps); never kill -9 it, that restarts the whole server"
        )
    return "terminated"


def _signal(connection: Connection, function: str, still: str, values: dict[str, Any]) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(_SIGNAL.format(function=function, still=still), values)
        row = cursor.fetchone()
        return row is not None and bool(row[0])


def _wait(connection: Connection, values: dict[str, Any], seconds: float, *, transaction: bool) -> str:
    """Return `gone`, `over` (the session lives and holds nothing) or `there`, after ``seconds`` at most."""
    deadline = time.monotonic() + seconds
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_LOOK, values)
            row = cursor.fetchone()
        if row is None:
            return "gone"
        if transaction and not row[0]:
            return "over"
        if time.monotonic() >= deadline:
            return "there"
        time.sleep(_POLL_S)
