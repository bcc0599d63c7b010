"""How jobs do: success rates, durations, what runs now, what is stuck or died, judged by the schedule."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from stationkeeper.jobs import runs
from stationkeeper.telemetry.source import rfc3339, snapshot

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

STATES = ("ok", "degraded", "critical")
#: States of a run whose row is not settled, or whose session is still there.
UNENDED = ("running", "stuck", "aborted")
#: A run moves its heartbeat every 15 s; a busy database may hold that up for a while.
HEARTBEAT_LIMIT_S = 120.0
#: Part of the runs that has to complete.
DEFAULT_TARGET = 0.95

# All of them by the index on name and time: the table has every run of years.
_FIGURES = """
SELECT count(completed_at), count(*) FILTER (WHERE status = 'completed'), sum(records_processed),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY lasted) FILTER (WHERE status = 'completed'),
       max(lasted) FILTER (WHERE status = 'completed'),
       (SELECT extract(epoch FROM now() - completed_at)::float8 FROM {table}
        WHERE job_name = %(name)s AND status = 'completed' ORDER BY started_at DESC LIMIT 1)
FROM (
    SELECT status, completed_at, records_processed,
           extract(epoch FROM completed_at - started_at)::float8 AS lasted
    FROM {table}
    WHERE job_name = %(name)s AND started_at > now() - make_interval(secs => %(window)s)) AS recent
"""
# The newest run, and whatever is `running`.
_ROWS = """
SELECT r.id, r.status, r.started_at, r.completed_at, r.records_processed, r.host, r.unit, r.process_id,
       r.error, extract(epoch FROM now() - r.started_at)::float8,
       extract(epoch FROM now() - r.heartbeat_at)::float8, {held}
FROM {table} r
WHERE r.job_name = %(name)s
  AND (r.status = 'running'
       OR r.id = (SELECT id FROM {table} WHERE job_name = %(name)s ORDER BY started_at DESC LIMIT 1))
ORDER BY r.id DESC
"""
_OLDEST = "SELECT extract(epoch FROM now() - started_at)::float8 FROM {table} ORDER BY id LIMIT 1"


@dataclass(frozen=True)
class Schedule:
    """What is asked of a job: begin at least every ``interval_s``, end within ``limit_s`` seconds."""

    name: str
    interval_s: float
    limit_s: float

    @property
    def due_s(self) -> float:
        """The age that the last success has at most while the job is on time."""
        return self.interval_s + self.limit_s


@dataclass(frozen=True)
class RunState:
    """A row of the job table. ``state`` is its status, or what is true of one that should run.

    ``stuck``: it holds the lock, and its heartbeat stands still, its time is over, or it was stopped already.
    ``aborted``: it does not hold the lock, so it is no run any more. Durations are in seconds.
    """

    id: int
    state: str
    started_at: datetime
    completed_at: datetime | None
    records: int | None
    host: str
    unit: str | None
    process_id: int
    error: str | None
    running_s: float
    heartbeat_age_s: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, times as RFC 3339 text."""
        ended = rfc3339(self.completed_at) if self.completed_at else None
        return {**asdict(self), "started_at": rfc3339(self.started_at), "completed_at": ended}


@dataclass(frozen=True)
class Figures:
    """One job over the window. Rates are None without an ended run, ages without a success. Seconds."""

    name: str
    ended: int
    completed: int
    records: int
    p50_s: float | None
    max_s: float | None
    success_age_s: float | None
    newest: RunState | None
    aborted: int

    @property
    def success_rate(self) -> float | None:
        """Completed runs of those that ended, in whatever way."""
        tried = self.ended + self.aborted
        return self.completed / tried if tried else None


@dataclass(frozen=True)
class Health:
    """A job's figures with the judgement: a state of a health check, and a sentence.

    ``on_time``: its last success is younger than an interval and its limit, whatever came after it.
    """

    figures: Figures
    state: str
    message: str
    on_time: bool

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        newest = self.figures.newest
        return {
            **asdict(self.figures),
            "success_rate": self.figures.success_rate,
            "newest": newest.as_dict() if newest else None,
            "state": self.state,
            "message": self.message,
            "on_time": self.on_time,
        }


def ask(
    connection: Connection,
    schedules: Sequence[Schedule],
    *,
    window_s: float,
    target: float,
    schema: str = "flux",
) -> list[Health]:
    """Return how each scheduled job does. Raises TelemetryError, or JobError without a job table."""
    found = []
    with snapshot(connection, timeout_s=60.0) as cursor:
        runs.require_table(cursor, schema)
        cursor.execute(runs.statement(_OLDEST, schema))
        (known_s,) = cursor.fetchone() or (None,)
        for schedule in schedules:
            cursor.execute(runs.statement(_FIGURES, schema), {"name": schedule.name, "window": window_s})
            ended, completed, records, p50, longest, age = cursor.fetchone() or (0, 0, 0, None, None, None)
            known = rows(cursor, schema, schedule)
            figures = Figures(
                schedule.name,
                ended,
                completed,
                int(records or 0),
                p50,
                longest,
                age,
                next((row for row in known if row.state != "aborted"), known[0] if known else None),
                sum(row.state == "aborted" for row in known),
            )
            found.append(judge(figures, schedule, target=target, known_s=known_s))
    return found


def rows(cursor: Cursor, schema: str, schedule: Schedule) -> list[RunState]:
    """Return the newest run of a job and all whose rows say `running`, the newest first."""
    values = {"name": schedule.name, "schema": schema, "class": runs.LOCK_CLASS}
    cursor.execute(runs.statement(_ROWS, schema), values)
    return [_state(row, schedule.limit_s) for row in cursor.fetchall()]


def wait(
    connection: Connection,
    schedules: Sequence[Schedule],
    after: int,
    timeout_s: float,
    *,
    schema: str = "flux",
) -> bool:
    """Wait until every job has ended a run with a number above ``after``; tell whether it has."""
    limit = time.monotonic() + timeout_s
    while True:
        with snapshot(connection, timeout_s=60.0) as cursor:
            newest = [next(iter(rows(cursor, schema, one)), None) for one in schedules]
        if all(one and one.id > after and one.state not in UNENDED for one in newest):
            return True
        if time.monotonic() > limit:
            return False
        time.sleep(1)


def describe(found: Sequence[Health]) -> list[str]:
    """Return a line for each job, for a terminal."""
    lines = []
    for one in found:
        seen = one.figures
        times = f", p50 {seen.p50_s:.1f} s, max {seen.max_s:.1f} s" if seen.p50_s is not None else ""
        lines.append(f"{one.state:8}  {one.message} ({seen.records} records{times})")
    return lines


def _state(row: Sequence[Any], limit_s: float) -> RunState:
    run, status, started, ended, records, host, unit, process, error, running_s, heartbeat_age_s, held = row
    state = str(status)
    if status == "running":
        late = heartbeat_age_s > HEARTBEAT_LIMIT_S or running_s > limit_s
        state = ("stuck" if late else "running") if held else "aborted"
    elif status == "stopped" and held:
        state = "stuck"
    return RunState(
        run, state, started, ended, records, host, unit, process, error, running_s, heartbeat_age_s
    )


def judge(figures: Figures, schedule: Schedule, *, target: float, known_s: float | None) -> Health:
    """Judge a job. ``known_s`` is the age of the oldest run of any job: since when jobs are scheduled. Pure.

    The worst finding decides; every finding is told.
    """
    findings = [("ok", _summary(figures)), *_run(figures), *_latency(figures, schedule, known_s)]
    rate = figures.success_rate
    if rate is not None and rate < target:
        findings.append(
            (
                "degraded" if figures.completed else "critical",
                f"{rate:.0%} of {figures.ended + figures.aborted} runs completed, the target is {target:.0%}",
            )
        )
    state = max((state for state, _ in findings), key=STATES.index)
    texts = [text for level, text in findings if text and (state == "ok" or level != "ok")]
    age = figures.success_age_s
    on_time = age is not None and age <= schedule.due_s
    return Health(figures, state, f"{figures.name}: {'; '.join(texts)}", on_time)


def _summary(figures: Figures) -> str:
    if figures.success_age_s is None:
        return "runs for the first time" if figures.newest else ""
    return (
        f"{figures.completed} of {figures.ended} runs completed, the last {figures.success_age_s:.0f} s ago"
    )


def _run(figures: Figures) -> list[tuple[str, str]]:
    newest, findings = figures.newest, []
    if figures.aborted:
        findings.append(("degraded", f"{figures.aborted} runs ended without a word (aborted)"))
    if newest is not None and newest.state == "stuck":
        findings.append(
            (
                "critical",
                f"run {newest.id} is stuck on {newest.host}: it runs for {newest.running_s:.0f} s, "
                f"its last heartbeat was {newest.heartbeat_age_s:.0f} s ago",
            )
        )
    if newest is not None and newest.state in {"failed", "stopped"}:
        findings.append(("degraded", f"the newest run {newest.state}: {newest.error}"))
    return findings


def _latency(figures: Figures, schedule: Schedule, known_s: float | None) -> list[tuple[str, str]]:
    age, due_s = figures.success_age_s, schedule.due_s
    if age is not None:
        if age <= due_s:
            return []
        state = "critical" if age > 3 * schedule.interval_s + schedule.limit_s else "degraded"
        return [(state, f"last completed {age:.0f} s ago, due every {schedule.interval_s:.0f} s")]
    if known_s is None:
        return [("critical", "has never run, nor has any other job")]
    if known_s > due_s:
        return [("critical", f"has never completed, and is due every {schedule.interval_s:.0f} s")]
    return [] if figures.newest else [("ok", "has never run, and was not due yet")]
