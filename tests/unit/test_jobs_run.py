"""Runs of jobs on a real PostgreSQL: alone, with a heartbeat, and never without a trace."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from jobs_database import create_job_tables, sessions, start_hanging
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

from stationkeeper.database.connection import connect
from stationkeeper.jobs import runs
from stationkeeper.jobs.interface import JobError, JobResult, JobSettings, Sample
from stationkeeper.jobs.run import run_ended, run_job


@pytest.fixture
def connection(postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    opened = create_job_tables(postgres_settings)
    opened.autocommit = True
    yield opened
    opened.close()


@pytest.fixture
def settings(connection: Connection, postgres_settings: dict[str, Any], tmp_path: Path) -> JobSettings:
    return JobSettings("flux", {**postgres_settings, "user": "flux_jobs"}, tmp_path, tmp_path)


def rows(connection: Connection) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT status, records_processed, error FROM flux.mg_etl_job ORDER BY id")
        return list(cursor.fetchall())


def three(settings: JobSettings) -> JobResult:
    return JobResult(3, {"seen": 3}, [Sample("stationkeeper_open_gaps", "Gaps", 2, {"site": "WLCE"})])


def broken(settings: JobSettings) -> JobResult:
    raise JobError("the source is away")


def test_a_run_leaves_its_row_and_its_figures(connection: Connection, settings: JobSettings) -> None:
    def work(own: JobSettings) -> JobResult:
        with closing(connect(own.database)) as session, session.cursor() as cursor:
            cursor.execute("SELECT current_setting('application_name'), status FROM flux.mg_etl_job")
            return JobResult(3, {"found": cursor.fetchall()}, three(own).metrics)

    done = run_job(settings, "gap_watch", work)
    assert (done.completed, done.records, done.error) == (True, 3, None)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT status, records_processed, evidence, completed_at >= started_at FROM flux.mg_etl_job"
        )
        evidence = {"found": [[f"stationkeeper-job gap_watch {done.id}", "running"]]}
        assert cursor.fetchall() == [("completed", 3, evidence, True)]
    figures = "".join(path.read_text() for path in sorted(settings.metrics_directory.glob("*.prom")))
    assert 'stationkeeper_job_last_run_success{job_name="gap_watch"} 1.0' in figures
    assert 'stationkeeper_job_records{job_name="gap_watch"} 3.0' in figures
    assert 'stationkeeper_open_gaps{site="WLCE"} 2.0' in figures
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in settings.metrics_directory.glob("*.prom"))


def test_a_failure_keeps_the_figures_of_the_last_success(
    connection: Connection, settings: JobSettings
) -> None:
    run_job(settings, "gap_watch", three)
    success = (settings.metrics_directory / "stationkeeper_job_gap_watch_success.prom").read_text()
    done = run_job(settings, "gap_watch", broken)
    assert (done.completed, done.error) == (False, "the source is away")
    assert rows(connection) == [("completed", 3, None), ("failed", None, "the source is away")]
    assert (settings.metrics_directory / "stationkeeper_job_gap_watch_success.prom").read_text() == success
    last = (settings.metrics_directory / "stationkeeper_job_gap_watch.prom").read_text()
    assert 'stationkeeper_job_last_run_success{job_name="gap_watch"} 0.0' in last


def test_a_database_that_is_away_is_a_failure_that_prometheus_sees(tmp_path: Path) -> None:
    away = {"hosts": [str(tmp_path)], "name": "flux", "user": "flux_jobs", "password": "hidden"}
    done = run_job(JobSettings("flux", away, tmp_path, tmp_path), "gap_watch", three)
    assert not done.completed
    assert (done.error or "").startswith("the database cannot be reached")
    assert "hidden" not in (done.error or "")
    assert "success{" in (tmp_path / "stationkeeper_job_gap_watch.prom").read_text()


def test_a_job_runs_once_at_a_time(connection: Connection, settings: JobSettings) -> None:
    with closing(connect(settings.database)) as other:
        other.autocommit = True
        run = runs.begin(other, "flux", "gap_watch", None)
        with pytest.raises(runs.JobBusyError, match=rf"already running: run {run} on .*nothing was done"):
            run_job(settings, "gap_watch", three)
        assert run_job(settings, "freshness", three).completed
        assert not list(settings.metrics_directory.glob("*gap_watch*"))
    # The session is gone, so its row belongs to a run that died.
    assert run_job(settings, "gap_watch", three).completed
    assert rows(connection)[0] == ("failed", None, runs.ABORTED)


def test_a_run_that_was_stopped_does_not_complete(connection: Connection, settings: JobSettings) -> None:
    def stopped(own: JobSettings) -> JobResult:
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE flux.mg_etl_job SET status = 'stopped', completed_at = now(), error = 'by hand'"
            )
        return JobResult(1)

    done = run_job(settings, "gap_watch", stopped)
    assert (done.completed, rows(connection)) == (False, [("stopped", None, "by hand")])


def test_the_job_table_is_needed(postgres_settings: dict[str, Any], tmp_path: Path) -> None:
    done = run_job(JobSettings("flux", postgres_settings, tmp_path, tmp_path), "gap_watch", three)
    assert "run the migrations first" in (done.error or "")


def test_a_run_that_lost_its_lock_ends_itself(connection: Connection, settings: JobSettings) -> None:
    with start_hanging(settings, "0.1") as worker:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(backend_pid) FROM flux.mg_etl_job")
        assert worker.wait(timeout=200) == -signal.SIGTERM
    assert rows(connection) == [("running", None, None)]
    assert sessions(connection) == 1
    assert run_job(settings, "gap_watch", three).completed
    assert sessions(connection) == 0
    assert rows(connection)[0] == ("failed", None, runs.ABORTED)


def test_what_a_killed_run_left_is_settled(connection: Connection, settings: JobSettings) -> None:
    with start_hanging(settings) as worker:
        assert run_ended(settings, "gap_watch", "nothing") == "no run of job gap_watch is left to be settled"
        worker.kill()
    # Its work still waits in the database, and so its lock would be held for ten minutes.
    assert sessions(connection) > 0
    assert "is marked as failed" in run_ended(settings, "gap_watch", "timeout, killed TERM")
    assert sessions(connection) == 0
    assert rows(connection) == [("failed", None, "its process was ended: timeout, killed TERM")]
    last = (settings.metrics_directory / "stationkeeper_job_gap_watch.prom").read_text()
    assert 'stationkeeper_job_last_run_success{job_name="gap_watch"} 0.0' in last


def test_the_jobs_have_the_least_rights(connection: Connection, settings: JobSettings) -> None:
    rights = {
        "mg_bess_readings": "SELECT",
        "mg_device_registry": "SELECT",
        "mg_gap_ledger": "SELECT INSERT UPDATE",
        "mg_etl_job": "SELECT INSERT UPDATE",
    }
    with closing(connect(settings.database)) as session, session.cursor() as cursor:
        for table, expected in rights.items():
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"):
                cursor.execute("SELECT has_table_privilege(%s, %s)", (f"flux.{table}", right))
                assert cursor.fetchall() == [(right in expected.split(),)], (table, right)
