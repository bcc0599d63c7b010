"""End one run of a job, and nothing else.

Which sessions are its own, `runs.sessions` says. The unit is only stopped while its main process is that of
the row, on the row's host.
"""

from __future__ import annotations

import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stationkeeper.database.connection import SettingsError, connect
from stationkeeper.jobs import runs, status
from stationkeeper.jobs.interface import JobError, JobSettings
from stationkeeper.jobs.status import RunState, Schedule
from stationkeeper.telemetry.source import one_line

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

_UNIT_TIMEOUT_S = 150.0

_MARK = """
UPDATE {table} SET status = %(status)s, completed_at = now(), error = %(reason)s
WHERE id = %(id)s AND status = 'running'
"""


@dataclass(frozen=True)
class Plan:
    """What ending a run takes: its row, the sessions that are its own, and its unit while that runs it."""

    run: RunState
    sessions: tuple[int, ...]
    unit: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"run": self.run.as_dict(), "sessions": list(self.sessions), "unit": self.unit}


def session(settings: JobSettings, application_name: str = "stationkeeper-job") -> Connection:
    """Connect in autocommit. Raises JobError when the database cannot be used."""
    import psycopg2

    try:
        opened = connect(settings.database, application_name=application_name)
    except SettingsError as error:
        raise JobError(str(error)) from None
    except psycopg2.Error as error:
        raise JobError(f"the database cannot be reached: {one_line(error)}") from None
    opened.autocommit = True
    return opened


def look(
    connection: Connection, schedule: Schedule, *, even_if_running: bool, schema: str = "flux"
) -> tuple[RunState | None, Plan | None]:
    """Return the newest run of a job, and what is to be ended: None when no run of it is there to be ended.

    The connection is in autocommit. Raises JobError for a healthy run, unless ``even_if_running``.
    """
    with connection.cursor() as cursor:
        runs.require_table(cursor, schema)
        rows = status.rows(cursor, schema, schedule)
        # At most one holds the lock; others died, and the next run closes their rows.
        unended = [row for row in rows if row.state in status.UNENDED]
        if not unended:
            return (rows[0] if rows else None), None
        run = next((row for row in unended if row.state != "aborted"), unended[0])
        if run.state == "running" and not even_if_running:
            raise JobError(
                f"run {run.id} of {schedule.name} is healthy: it runs for {run.running_s:.0f} s of "
                f"{schedule.limit_s:.0f} s, its last heartbeat was {run.heartbeat_age_s:.0f} s ago. "
                "Wait, or set even_if_running=true"
            )
        own = runs.sessions(cursor, schema, run.id)
    unit = run.unit if run.host == socket.gethostname() and main_process(run.unit) == run.process_id else None
    return rows[0], Plan(run, own, unit)


def carry_out(connection: Connection, what: Plan, reason: str, *, schema: str = "flux") -> None:
    """Mark the run as stopped, end its process and its sessions. Raises JobError when something is left."""
    mark(connection, what.run.id, "stopped", reason, schema=schema)
    if what.unit is not None:
        _systemctl("stop", what.unit)
        if main_process(what.unit) == what.run.process_id:
            raise JobError(f"{what.unit} still runs process {what.run.process_id}: see systemctl status")
    runs.end_sessions(connection, what.run.id, schema=schema)


def mark(connection: Connection, run: int, state: str, reason: str, *, schema: str = "flux") -> bool:
    """Settle the row of a run from outside; tell whether it was still `running`."""
    with connection.cursor() as cursor:
        cursor.execute(runs.statement(_MARK, schema), {"id": run, "status": state, "reason": reason})
        return bool(cursor.rowcount == 1)


def main_process(unit: str | None) -> int | None:
    """Return the main process of a unit, None without one."""
    if unit is None:
        return None
    shown = _systemctl("show", "--property=MainPID", "--value", unit)
    return int(shown) or None if shown.isdigit() else None


def _systemctl(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["systemctl", *arguments], capture_output=True, text=True, timeout=_UNIT_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise JobError(f"systemctl {arguments[0]} {arguments[-1]} failed: {error}") from None
    return done.stdout.strip()
