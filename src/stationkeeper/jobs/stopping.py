"""End one run of a job, and nothing else.

Which sessions are its own, `runs.sessions` says. The unit is only stopped while its main process is that of
the row, on the row's host.
"""

from __future__ import annotations

import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stationkeeper.jobs import runs, status
from stationkeeper.jobs.interface import JobError
from stationkeeper.jobs.status import RunState

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


def plan(
    connection: Connection, name: str, *, limit_s: float, even_if_running: bool, schema: str = "flux"
) -> Plan | None:
    """Return what is to be ended, None when no run of the job is there to be ended.

    The connection is in autocommit. Raises JobError for a healthy run, unless ``even_if_running``.
    """
    with connection.cursor() as cursor:
        runs.require_table(cursor, schema)
        found = status.running(cursor, schema, name, limit_s)
        if not found:
            return None
        # At most one holds the lock; others died, and the next run closes their rows.
        run = next((row for row in found if row.state != "aborted"), found[0])
        if run.state == "running" and not even_if_running:
            raise JobError(
                f"run {run.id} of {name} is healthy: it runs for {run.running_s:.0f} s of {limit_s:.0f} s, "
                f"its last heartbeat was {run.heartbeat_age_s:.0f} s ago. Wait, or set even_if_running=true"
            )
        sessions = runs.sessions(cursor, schema, run.id)
    unit = run.unit if run.host == socket.gethostname() and main_process(run.unit) == run.process_id else None
    return Plan(run, sessions, unit)


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
