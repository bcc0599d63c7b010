"""The rows of the job table, and the advisory lock that keeps two runs of one job apart.

Whoever holds the lock is the run. A row `running` whose session does not hold it belongs to a run that died.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stationkeeper.jobs.interface import JobError
from stationkeeper.telemetry.source import has_table

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)
    from psycopg2.sql import Composed

TABLE = "mg_etl_job"
#: Advisory locks of jobs have this as their first key, and the hash of schema and job as their second.
LOCK_CLASS = 0x6A6F62
_SESSIONS_TIMEOUT_S = 30.0

_LOCK = "SELECT pg_try_advisory_lock(%(class)s, hashtext(%(schema)s || '.' || %(name)s))"
# Whether the session that row `r` names holds the lock of its job now. Everybody may see locks.
_HELD = """EXISTS (
    SELECT 1 FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.pid = r.backend_pid
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.classid = %(class)s::integer::oid AND l.objid = hashtext(%(schema)s || '.' || r.job_name)::oid)"""
_RUNNING = """
SELECT r.id, r.host, r.process_id, r.started_at FROM {table} r
WHERE r.job_name = %(name)s AND r.status = 'running' AND {held}
"""
_ORPHANS = """
UPDATE {table} SET status = 'failed', completed_at = now(), error = %(error)s
WHERE job_name = %(name)s AND status = 'running' RETURNING id
"""
_BEGIN = """
INSERT INTO {table} (job_name, host, unit, process_id, backend_pid, backend_start)
SELECT %(name)s, %(host)s, %(unit)s, %(process)s, pid, backend_start
FROM pg_stat_activity WHERE pid = pg_backend_pid()
RETURNING id
"""
_END = """
UPDATE {table} SET status = %(status)s, completed_at = now(), heartbeat_at = now(),
    records_processed = %(records)s, error = %(error)s, evidence = %(evidence)s
WHERE id = %(id)s AND status = 'running'
"""
_BEAT = "UPDATE {table} r SET heartbeat_at = now() WHERE r.id = %(id)s AND r.status = 'running' AND {held}"

_OWN = """
FROM pg_stat_activity a JOIN {table} r ON r.id = %(id)s
WHERE a.datname = current_database() AND pg_has_role(a.usename, 'MEMBER')
  AND a.application_name = 'stationkeeper-job ' || r.job_name || ' ' || r.id
  AND ((a.pid = r.backend_pid AND a.backend_start = r.backend_start)
       OR (a.pid <> r.backend_pid AND a.backend_start >= r.backend_start))
"""
_SESSIONS = "SELECT a.pid " + _OWN
_TERMINATE = "SELECT pg_terminate_backend(a.pid) " + _OWN

ABORTED = "the run ended without a word: its process, its host or its session died"


class JobBusyError(JobError):
    """Another run of the job holds its lock; the message says which."""


class JobLostError(JobError):
    """The row is no longer `running`: somebody stopped the run, or took it for dead."""


def application_name(name: str, run: int) -> str:
    """Return the name that all sessions of a run have, and no other session."""
    return f"stationkeeper-job {name} {run}"


def statement(text: str, schema: str) -> Composed:
    """Fill the name of the job table into a statement, and whether a row's session holds its lock."""
    from psycopg2 import sql

    filled: Composed = sql.SQL(text).format(table=sql.Identifier(schema, TABLE), held=sql.SQL(_HELD))
    return filled


def require_table(cursor: Cursor, schema: str) -> None:
    """Raise JobError when the migration of the job table is missing."""
    if not has_table(cursor, schema, TABLE):
        raise JobError(f"{schema}.{TABLE} does not exist: run the migrations first (database_migrate)")


def begin(connection: Connection, schema: str, name: str, unit: str | None) -> int:
    """Take the lock of a job and enter its run; close the rows of runs that died. Return the new row's id.

    The connection is in autocommit, and keeps the lock until it closes. Raises JobBusyError when another run
    has it, JobError when there is no job table.
    """
    values = {"class": LOCK_CLASS, "schema": schema, "name": name, "error": ABORTED}
    with connection.cursor() as cursor:
        require_table(cursor, schema)
        cursor.execute(_LOCK, values)
        if cursor.fetchone() != (True,):
            cursor.execute(statement(_RUNNING, schema), values)
            raise JobBusyError(_busy(name, cursor.fetchone()))
        cursor.execute(statement(_ORPHANS, schema), values)
        for (orphan,) in cursor.fetchall():
            # The server works on for a client that died until it has something to tell it.
            end_sessions(connection, orphan, schema=schema)
        cursor.execute(
            statement(_BEGIN, schema),
            {"name": name, "host": socket.gethostname(), "unit": unit, "process": os.getpid()},
        )
        (run,) = cursor.fetchone() or (0,)
        cursor.execute("SET application_name = %s", (application_name(name, run),))
    return int(run)


def _busy(name: str, row: tuple[Any, ...] | None) -> str:
    if row is None:  # it has the lock already, and not yet its row
        return f"another run of job {name} has just begun; nothing was done"
    run, host, process, since = row
    return (
        f"job {name} is already running: run {run} on {host}, process {process}, "
        f"since {since:%Y-%m-%d %H:%M:%S} UTC; nothing was done"
    )


def end(
    connection: Connection,
    schema: str,
    run: int,
    status: str,
    *,
    records: int | None = None,
    error: str | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> None:
    """Settle the row of a run. Raises JobLostError when it is not `running` any more."""
    from psycopg2.extras import Json

    values = {
        "id": run,
        "status": status,
        "records": records,
        "error": error,
        "evidence": Json(evidence or {}),
    }
    with connection.cursor() as cursor:
        cursor.execute(statement(_END, schema), values)
        if cursor.rowcount != 1:
            raise JobLostError(f"run {run} was stopped, or taken for dead, while it worked")


def beat(connection: Connection, schema: str, run: int) -> bool:
    """Move the heartbeat; tell whether the run still is one, with the lock of its job."""
    with connection.cursor() as cursor:
        cursor.execute(
            statement(_BEAT, schema),
            {"id": run, "class": LOCK_CLASS, "schema": schema},
        )
        return bool(cursor.rowcount == 1)


def end_sessions(connection: Connection, run: int, *, schema: str = "flux") -> None:
    """End the sessions of a run, and see them gone. Raises JobError when one stays."""
    limit = time.monotonic() + _SESSIONS_TIMEOUT_S
    with connection.cursor() as cursor:
        while left := sessions(cursor, schema, run):
            if time.monotonic() > limit:
                raise JobError(
                    f"session {left[0]} of run {run} does not end; the database is to be looked at"
                )
            # Asked again each time, so that a process that took a number over is never hit.
            cursor.execute(statement(_TERMINATE, schema), {"id": run})
            time.sleep(0.1)


def sessions(cursor: Cursor, schema: str, run: int) -> tuple[int, ...]:
    """Return the server processes of a run's sessions.

    The one that holds the lock is known by its process, the moment it began and its name; the others by the
    run's own name and user.
    """
    cursor.execute(statement(_SESSIONS, schema), {"id": run})
    return tuple(pid for (pid,) in cursor.fetchall())
