"""Run one job: alone, with a heartbeat, a row in the database and figures for Prometheus."""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stationkeeper.database.connection import connect
from stationkeeper.jobs import metrics, runs, status, stopping
from stationkeeper.jobs.interface import JobError, JobSettings, Work
from stationkeeper.telemetry.source import TelemetryError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

HEARTBEAT_S = 15.0
_MAX_ERROR = 1000


@dataclass(frozen=True)
class Run:
    """A run that ended: its row, whether it completed, what it did, and why not."""

    id: int | None
    completed: bool
    duration_s: float
    records: int = 0
    error: str | None = None


def run_job(settings: JobSettings, name: str, work: Work, *, unit: str | None = None) -> Run:
    """Do the work of a job once and return how it ended; a failure is a result.

    ``unit`` is the systemd unit that the run is the main process of. When the run loses its lock or is marked
    as stopped while it works, the process ends itself: another run may have begun. Raises JobBusyError when
    the job is running already; nothing is written then.
    """
    import psycopg2

    began = time.monotonic()
    run: int | None = None
    try:
        with closing(stopping.session(settings, f"stationkeeper-job {name}")) as connection:
            run = runs.begin(connection, settings.schema, name, unit)
            own = replace(
                settings, database={**settings.database, "application_name": runs.application_name(name, run)}
            )
            try:
                metrics.write_start(settings.metrics_directory, name)
                with _heartbeat(own, run):
                    result = work(own)
            except Exception as error:
                # Without its session the run cannot settle its row any more: the next run does.
                with suppress(psycopg2.Error):
                    runs.end(connection, settings.schema, run, "failed", error=_told(error))
                raise
            runs.end(
                *(connection, settings.schema, run, "completed"),
                records=result.records,
                evidence=result.evidence,
            )
    except runs.JobBusyError:
        raise
    except Exception as error:  # a job may fail with anything; it must not fail without a trace
        ended = Run(run, False, time.monotonic() - began, error=_told(error))
        metrics.write_run(settings.metrics_directory, name, ended.duration_s, completed=False)
        return ended
    ended = Run(run, True, time.monotonic() - began, result.records)
    metrics.write_run(settings.metrics_directory, name, ended.duration_s, completed=True)
    metrics.write_success(settings.metrics_directory, name, result)
    return ended


def run_ended(settings: JobSettings, name: str, why: str) -> str:
    """Settle what a run left whose process was ended from outside, as far as it was on this host; say what.

    A session that works for nobody any more is ended, too: the server notices a dead client only when it has
    something to tell it. Raises JobError when the database cannot be reached; the figures tell the failure.
    """
    try:
        with closing(stopping.session(settings)) as connection, connection.cursor() as cursor:
            left = [
                one
                for one in status.rows(cursor, settings.schema, status.Schedule(name, math.inf, math.inf))
                if one.state in status.UNENDED
                and one.host == socket.gethostname()
                and not Path(f"/proc/{one.process_id}").exists()
            ]
            for one in left:
                stopping.mark(
                    connection, one.id, "failed", f"its process was ended: {why}", schema=settings.schema
                )
                runs.end_sessions(connection, one.id, schema=settings.schema)
    except JobError:
        metrics.write_run(settings.metrics_directory, name, 0.0, completed=False)
        raise
    if not left:
        return f"no run of job {name} is left to be settled"
    metrics.write_run(settings.metrics_directory, name, left[0].running_s, completed=False)
    return f"run {left[0].id} of job {name} is marked as failed: {why}"


@contextmanager
def _heartbeat(settings: JobSettings, run: int) -> Iterator[None]:
    """Move the row's heartbeat from a thread with a session of its own, while the work goes on."""
    import psycopg2

    done = threading.Event()

    def beat() -> None:
        connection: Connection | None = None
        while not done.wait(HEARTBEAT_S):
            try:
                if connection is None or connection.closed:
                    connection = connect(settings.database)
                    connection.autocommit = True
                alive = runs.beat(connection, settings.schema, run)
            except psycopg2.Error:
                # The database is away. Whether the run lost its lock by that, the next beat will tell.
                if connection is not None:
                    connection.close()
                continue
            if not alive and not done.is_set():
                # At once, also while the main thread waits for the database.
                os.kill(os.getpid(), signal.SIGTERM)
        if connection is not None:
            connection.close()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _told(error: BaseException) -> str:
    """One line for an operator; an error that nobody foresaw says of which kind it is."""
    text = one_line(error)
    known = isinstance(error, (JobError, TelemetryError))
    return (text if known else f"{type(error).__name__}: {text}")[:_MAX_ERROR]
