"""Who blocks whom on a server, and the sessions that an operator may end.

A session is its process *and* the moment it began: the number of a process is used again. Standard library
only (psycopg2 comes in with the connection): Ansible ships this file to the database host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

QUERY_LENGTH = 160
#: What pg_blocking_pids names when a prepared transaction is in the way: no process holds it.
PREPARED = 0

_IDLE = ("idle in transaction", "idle in transaction (aborted)")
_LITERAL = re.compile(
    r"""
    \$([A-Za-z_]\w*)?\$.*?(?:\$\1\$|\Z)             # a dollar quote
    | (?:\b[eEbBxX])?'(?:[^'\\]|''|\\.)*(?:'|\Z)        # a string, also one that the server cut off
    | (?<![\w$])\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\b    # a number, but not the parameter $1
    """,
    re.VERBOSE | re.DOTALL,
)

_READ = """
SELECT a.pid, a.backend_start, a.datname, a.usename, a.application_name, host(a.client_addr), a.backend_type,
    coalesce(a.state, ''), a.state_change, a.xact_start,
    extract(epoch FROM clock_timestamp() - a.xact_start)::float8,
    extract(epoch FROM clock_timestamp() - a.state_change)::float8,
    (SELECT extract(epoch FROM clock_timestamp() - min(waitstart))::float8 FROM pg_locks
     WHERE pg_locks.pid = a.pid AND NOT granted),
    CASE WHEN a.wait_event_type = 'Lock' THEN pg_blocking_pids(a.pid) ELSE '{}' END,
    a.query
FROM pg_stat_activity AS a
WHERE a.backend_start IS NOT NULL AND a.pid <> pg_backend_pid()
ORDER BY a.backend_start, a.pid
"""

_PREPARED = "SELECT gid, prepared, owner, database FROM pg_prepared_xacts ORDER BY prepared"


class SessionError(Exception):
    """The request does not fit what the server shows; the message says what to do instead."""


@dataclass(frozen=True)
class Session:
    """One server process as pg_stat_activity has it. Ages are in seconds; the query has no literals."""

    pid: int
    backend_start: datetime
    database: str | None
    user: str | None
    application: str
    client: str | None
    kind: str
    state: str
    state_change: datetime | None
    transaction_start: datetime | None
    transaction_s: float | None
    state_s: float | None
    waits_s: float | None
    blocked_by: tuple[int, ...]
    query: str

    @property
    def idle_in_transaction(self) -> bool:
        """Whether it holds a transaction open and does nothing in it."""
        return self.state in _IDLE

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, times in RFC 3339 with all their digits."""
        plain = asdict(self) | {"blocked_by": list(self.blocked_by)}
        return {
            key: value.isoformat() if isinstance(value, datetime) else value for key, value in plain.items()
        }


def redacted(query: str, length: int = QUERY_LENGTH) -> str:
    """Return a query on one line without its strings and numbers, which may be data or a password."""
    return " ".join(_LITERAL.sub("?", query).split())[:length]


def read(connection: Connection) -> list[Session]:
    """Return every process of the server but this session, the oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(_READ)
        names = [field.name for field in fields(Session)]
        found = [Session(**dict(zip(names, row, strict=True))) for row in cursor]
    return [
        replace(one, blocked_by=tuple(dict.fromkeys(one.blocked_by)), query=redacted(one.query or ""))
        for one in found
    ]


def prepared(connection: Connection) -> list[str]:
    """Return a sentence for each prepared transaction: it holds its locks with no session to end."""
    with connection.cursor() as cursor:
        cursor.execute(_PREPARED)
        return [
            f"prepared transaction of {owner} in {database} since {since.isoformat()}: COMMIT PREPARED or "
            f"ROLLBACK PREPARED '{name}' there"
            for name, since, owner, database in cursor
        ]


def tree(sessions: Iterable[Session]) -> list[str]:
    """Return who blocks whom as lines: each root is blocked by nobody, those that wait for it stand below it.

    A session that waits for several stands below each. Sessions that wait for each other in a circle (a
    deadlock that the server has not broken yet) begin with the one that waits longest.
    """
    known = {session.pid: session for session in sessions}
    waiting: dict[int, list[Session]] = {}
    for session in known.values():
        for blocker in session.blocked_by:
            waiting.setdefault(blocker, []).append(session)
    lines: list[str] = []
    shown: set[int] = set()

    def add(pid: int, path: tuple[int, ...]) -> None:
        shown.add(pid)
        lines.append("  " * len(path) + describe(known.get(pid), pid))
        for session in sorted(waiting.get(pid, ()), key=lambda one: -(one.waits_s or 0)):
            if session.pid in (*path, pid):
                lines.append("  " * (len(path) + 1) + f"{session.pid} again: they wait for each other")
            else:
                add(session.pid, (*path, pid))

    free = [pid for pid in waiting if pid not in known or not known[pid].blocked_by]
    for pid in sorted(
        free, key=lambda one: (known[one].backend_start.timestamp() if one in known else 0, one)
    ):
        add(pid, ())
    for session in sorted(known.values(), key=lambda one: -(one.waits_s or 0)):
        if session.blocked_by and session.pid not in shown:
            add(session.pid, ())
    return lines


def describe(session: Session | None, pid: int = PREPARED) -> str:
    """Return a session on one line, with what it takes to name it exactly."""
    if session is None:
        return "a prepared transaction" if pid == PREPARED else f"{pid}, which has ended meanwhile"
    who = f"{session.user or session.kind}@{session.database or '-'}"
    state = session.state or session.kind
    if session.waits_s is not None:
        state = f"waits {age(session.waits_s)}"
    elif session.state_s is not None:
        state += f" {age(session.state_s)}"
    held = f", transaction {age(session.transaction_s)}" if session.transaction_s is not None else ""
    name = f" {session.application}" if session.application else ""
    return (
        f"{session.pid} since {session.backend_start.isoformat()} {who}{name}: {state}{held}: {session.query}"
    )


def age(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    whole = max(0, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def named(sessions: Sequence[Session], pid: int, backend_start: datetime, database: str) -> Session | None:
    """Return the session that is meant, None when no process has that number any more.

    Raises SessionError when the number belongs to another session, to another database, or to a process
    that is no client's.
    """
    found = next((session for session in sessions if session.pid == pid), None)
    if found is None:
        return None
    if found.backend_start != backend_start:
        raise SessionError(
            f"process {pid} is a session that began {found.backend_start.isoformat()}, not "
            f"{backend_start.isoformat()}: it is not the one you named. Nothing was ended"
        )
    if found.kind != "client backend":
        raise SessionError(
            f"process {pid} is a {found.kind}, which this does not end. A walsender is replication: see "
            "database_status; a parallel worker ends with its leader; an autovacuum gives way by itself"
        )
    if found.database != database:
        raise SessionError(f"process {pid} works in database {found.database}, not in {database}")
    return found


def idle(sessions: Iterable[Session], longer_than_s: float, database: str) -> list[Session]:
    """Return the clients of a database that have done nothing in an open transaction for longer than that."""
    return [
        session
        for session in sessions
        if session.kind == "client backend"
        and session.database == database
        and session.idle_in_transaction
        and (session.state_s or 0) > longer_than_s
    ]
