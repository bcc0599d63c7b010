"""A stuck job on a real PostgreSQL is ended, and nobody else."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jobs_database import create_job_tables, sessions, start_hanging
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

from stationkeeper.database.connection import connect
from stationkeeper.jobs import runs, status, stopping
from stationkeeper.jobs.interface import JobError, JobSettings
from stationkeeper.jobs.status import Figures, RunState, Schedule, judge


@pytest.fixture
def connection(postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    opened = create_job_tables(postgres_settings)
    opened.autocommit = True
    yield opened
    opened.close()


@pytest.fixture
def settings(connection: Connection, postgres_settings: dict[str, Any], tmp_path: Path) -> JobSettings:
    return JobSettings("flux", {**postgres_settings, "user": "flux_jobs"}, tmp_path, tmp_path)


SYSTEMCTL = """#!/bin/sh
echo "$@" >> {log}
case $1 in
  show) cat {pid} ;;
  stop) kill -9 "$(cat {pid})"; echo 0 > {pid} ;;
esac
"""


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for systemd with a unit; the file holds its main process."""
    pid, program = tmp_path / "main.pid", tmp_path / "systemctl"
    program.write_text(SYSTEMCTL.format(log=tmp_path / "asked", pid=pid))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    pid.write_text("0")
    return pid


def test_exactly_the_stuck_run_is_ended(connection: Connection, settings: JobSettings, unit: Path) -> None:
    with ExitStack() as stack:
        worker = stack.enter_context(start_hanging(settings))
        unit.write_text(str(worker.pid))
        # Sessions of the same user that look alike: of another run, with another number, without one.
        names = ("stationkeeper-job gap_watch 999", "stationkeeper-job gap_watch", "psql")
        innocent = [
            stack.enter_context(closing(connect({**settings.database, "application_name": name})))
            for name in names
        ]
        with closing(connect(settings.database)) as own:
            own.autocommit = True
            with pytest.raises(JobError, match=r"is healthy: .* set even_if_running=true"):
                stopping.look(own, Schedule("gap_watch", 300, 3600), even_if_running=False)
            _, found = stopping.look(own, Schedule("gap_watch", 300, 0), even_if_running=False)
            assert found is not None
            assert (found.run.state, found.unit) == ("stuck", "stationkeeper-job-gap_watch.service")
            assert len(found.sessions) == 2
            assert worker.poll() is None
            stopping.carry_out(own, found, "stuck, see ticket 7")
            newest, found = stopping.look(own, Schedule("gap_watch", 300, 0), even_if_running=False)
            assert (newest.state if newest else None, found) == ("stopped", None)
        assert worker.wait(timeout=100) == -9
        for session in innocent:
            with session.cursor() as cursor:
                cursor.execute("SELECT 1")
                assert cursor.fetchone() == (1,)
    with connection.cursor() as cursor:
        cursor.execute("SELECT status, error, completed_at IS NOT NULL FROM flux.mg_etl_job")
        assert cursor.fetchall() == [("stopped", "stuck, see ticket 7", True)]


def test_a_unit_that_runs_something_else_is_left_alone(
    connection: Connection, settings: JobSettings, unit: Path
) -> None:
    with start_hanging(settings) as worker, closing(connect(settings.database)) as own:
        own.autocommit = True
        unit.write_text(str(os.getpid()))
        _, found = stopping.look(own, Schedule("gap_watch", 300, 0), even_if_running=False)
        assert found is not None
        assert found.unit is None
        stopping.carry_out(own, found, "by hand")
        # Its sessions are gone, so the process ends by itself.
        assert worker.wait(timeout=100) != 0
    assert "stop" not in (unit.parent / "asked").read_text()
    assert sessions(connection) == 0


def test_a_session_that_took_over_the_number_is_left_alone(
    connection: Connection, settings: JobSettings
) -> None:
    """The row names a process that serves somebody else by now."""
    with closing(connect(settings.database)) as other, connection.cursor() as cursor:
        other.autocommit = True
        run = runs.begin(other, "flux", "gap_watch", None)
        cursor.execute("UPDATE flux.mg_etl_job SET backend_start = backend_start - interval '1 hour'")
        assert runs.sessions(cursor, "flux", run) == ()


def state(kind: str, **changes: Any) -> RunState:
    given: dict[str, Any] = {
        "id": 7,
        "state": kind,
        "started_at": datetime.now(UTC),
        "completed_at": None,
        "records": None,
        "host": socket.gethostname(),
        "unit": None,
        "process_id": 1,
        "error": None,
        "running_s": 100.0,
        "heartbeat_age_s": 3.0,
    }
    return RunState(**given | changes)


def figures(**changes: Any) -> Figures:
    given: dict[str, Any] = {
        "name": "gap_watch",
        "ended": 20,
        "completed": 20,
        "records": 5,
        "p50_s": 1.0,
        "max_s": 2.0,
        "success_age_s": 60.0,
        "newest": state("completed"),
        "aborted": 0,
    }
    return Figures(**given | changes)


@pytest.mark.parametrize(
    ("found", "known_s", "expected", "words"),
    [
        (figures(), 9e5, "ok", "20 of 20 runs completed, the last 60 s ago"),
        (figures(ended=100, completed=96), 9e5, "ok", "96 of 100"),
        (figures(completed=18), 9e5, "degraded", "90% of 20 runs completed, the target is 95%"),
        (figures(ended=2, completed=0), 9e5, "critical", "0% of 2 runs"),
        (figures(success_age_s=600.0), 9e5, "degraded", "last completed 600 s ago, due every 300 s"),
        (figures(success_age_s=1200.0), 9e5, "critical", "last completed 1200 s ago"),
        (figures(newest=state("stuck")), 9e5, "critical", "run 7 is stuck on"),
        (figures(newest=state("failed", error="no disk")), 9e5, "degraded", "newest run failed: no disk"),
        (figures(newest=state("aborted"), aborted=1), 9e5, "degraded", "1 runs ended without a word"),
        (figures(newest=state("running")), 9e5, "ok", "20 of 20"),
    ],
)
def test_a_job_is_judged(found: Figures, known_s: float, expected: str, words: str) -> None:
    health = judge(found, Schedule("gap_watch", 300, 200), target=0.95, known_s=known_s)
    assert (health.state, words in health.message) == (expected, True), health.message


@pytest.mark.parametrize(
    ("known_s", "expected", "words"),
    [
        (None, "critical", "nor has any other"),
        (60.0, "ok", "was not due yet"),
        (9e5, "critical", "never completed"),
    ],
)
def test_a_job_that_never_ran_is_seen(known_s: float | None, expected: str, words: str) -> None:
    never = figures(ended=0, completed=0, p50_s=None, max_s=None, success_age_s=None, newest=None)
    health = judge(never, Schedule("gap_watch", 300, 200), target=0.95, known_s=known_s)
    assert (health.state, words in health.message) == (expected, True), health.message


def test_the_figures_are_those_of_the_table(
    connection: Connection, postgres_settings: dict[str, Any]
) -> None:
    with connection.cursor() as cursor:
        for ago, lasted, outcome in (
            (7200, 4, "completed"),
            (3600, 2, "completed"),
            (60, 1, "failed"),
            (9, 0, "running"),
        ):
            cursor.execute(
                "INSERT INTO flux.mg_etl_job (job_name, status, started_at, completed_at, records_processed,"
                " host, process_id, backend_pid, backend_start, error) SELECT 'gap_watch', %(outcome)s,"
                " now() - %(ago)s * interval '1 second', CASE WHEN %(outcome)s <> 'running'"
                " THEN now() - (%(ago)s - %(lasted)s) * interval '1 second' END, 10, 'hub', 1, 1, now(),"
                " 'no disk'",
                {"outcome": outcome, "ago": ago, "lasted": lasted},
            )
    asked = [Schedule("gap_watch", 300, 200), Schedule("validate", 300, 200)]
    with closing(connect({**postgres_settings, "user": "flux_reader"})) as reader:
        watched, never = status.ask(reader, asked, window_s=86400, target=0.95)
        (short, _) = status.ask(reader, asked, window_s=5000, target=0.95)
    seen = watched.figures
    assert (seen.ended, seen.completed, seen.aborted, seen.records) == (3, 2, 1, 40)
    assert (seen.p50_s, seen.max_s, seen.success_rate) == (3.0, 4.0, 0.5)
    assert seen.newest is not None
    assert seen.newest.state == "aborted"
    assert (watched.on_time, never.on_time) == (False, False)
    assert (watched.state, never.state, never.figures.newest) == ("critical", "critical", None)
    assert (short.figures.ended, short.figures.completed) == (2, 1)
