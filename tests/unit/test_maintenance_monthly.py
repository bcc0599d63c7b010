"""Unused indexes over chunks, and the archive of jobs, on a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from maintenance_database import ROLES
from module_runner import run_module
from postgres_cluster import PostgresCluster
from telemetry_database import ROOT

from stationkeeper.database.connection import connect
from stationkeeper.database.maintenance_monthly import MonthlyError, Report, monthly
from stationkeeper.database.statements import split

VALUES: dict[str, Any] = {"scans": 0, "least_days": 0.0, "lock_timeout_s": 1.0, "check": False}


def fill(settings: dict[str, Any]) -> None:
    connection = connect(settings)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA flux")
        cursor.execute(
            "CREATE TABLE flux.r (a int NOT NULL, b int, c int, PRIMARY KEY (a)) PARTITION BY RANGE (a)"
        )
        for low in (0, 100_000):
            cursor.execute(
                f"CREATE TABLE flux.r_{low} PARTITION OF flux.r FOR VALUES FROM ({low}) TO ({low + 100_000})"
            )
        cursor.execute("CREATE INDEX r_b ON flux.r (b)")
        cursor.execute("CREATE INDEX r_c ON flux.r (c)")
        cursor.execute("CREATE UNIQUE INDEX r_ab ON flux.r (a, b)")
        cursor.execute("INSERT INTO flux.r SELECT n, n, n FROM generate_series(1, 199999, 20) AS n")
        cursor.execute("ANALYZE flux.r")
        # Only a chunk's index is scanned: the parent's own count stays 0.
        cursor.execute("SET enable_seqscan = off")
        cursor.execute("SELECT * FROM flux.r_0 WHERE b = 21")
        connection.commit()
        cursor.execute("SELECT pg_stat_force_next_flush()")
    connection.close()


def jobs(settings: dict[str, Any]) -> None:
    connection = connect(settings)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA IF NOT EXISTS flux")
        for role in ROLES:
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
            if not cursor.fetchone():
                cursor.execute(f"CREATE ROLE {role}")
        script = split((ROOT / "migrations/flux/0008_etl_jobs.sql").read_text())
        cursor.execute(next(one.text for one in script if one.text.startswith("CREATE TABLE")))
        (path,) = (ROOT / "migrations/flux").glob("*_job_archive.sql")
        for statement in split(path.read_text()):
            cursor.execute(statement.text)
        for name, days, status in (
            ("a", 200, "completed"),
            ("a", 100, "failed"),
            ("a", 80, "completed"),
            ("b", 300, "completed"),
            ("c", 200, "running"),
            ("c", 1, "completed"),
        ):
            cursor.execute(
                "INSERT INTO flux.mg_etl_job (job_name, status, started_at, completed_at, records_processed,"
                " host, process_id, backend_pid, backend_start, error) VALUES (%(name)s, %(status)s,"
                " now() - make_interval(days => %(days)s),"
                " CASE WHEN %(status)s <> 'running' THEN now() END, 1, 'hub', 1, 1, now(), 'none')",
                {"name": name, "days": days, "status": status},
            )
    connection.close()


def run(settings: dict[str, Any], **changes: Any) -> Report:
    return monthly(settings, **{**VALUES, **changes})


def test_scans_are_summed_over_chunks_and_unique_ones_are_safe(postgres_settings: dict[str, Any]) -> None:
    fill(postgres_settings)
    report = run(postgres_settings)
    # r_b is used on one chunk; r_ab and the primary key refuse rows, which no scan counts.
    assert [one.name for one in report.unused] == ["flux.r_c"]
    assert (report.unused[0].table, report.unused[0].parts) == ("flux.r", 3)
    assert report.unused[0].size > 0
    assert report.sizes[0]["table"] == "flux.r"
    assert report.sizes[0]["rows"] == 10_000


def test_only_what_is_named_listed_and_old_enough_is_dropped(
    tmp_path: Path, postgres_settings: dict[str, Any], postgres_cluster: PostgresCluster
) -> None:
    fill(postgres_settings)
    for name in ("flux.r_b", "flux.r_ab", "flux.r_pkey", "flux.r_0_c_idx"):
        with pytest.raises(MonthlyError, match=f"not an unused index of the report: {name}"):
            run(postgres_settings, drop=[name])
    with pytest.raises(MonthlyError, match="30 are needed to call an index unused"):
        run(postgres_settings, drop=["flux.r_c"], least_days=30.0)
    arguments = {
        "database": postgres_settings["name"],
        "hosts": [str(postgres_cluster.directory)],
        "port": postgres_settings["port"],
        "drop": ["flux.r_c"],
        "least_days": 0,
    }
    planned = run_module(tmp_path, "database_maintenance_monthly", arguments, check=True)
    assert planned["changed"]
    assert [one.name for one in run(postgres_settings).unused] == ["flux.r_c"]
    done = run_module(tmp_path, "database_maintenance_monthly", arguments)
    assert done["dropped"] == ["flux.r_c"]
    # What makes it again is kept.
    assert done["diff"]["before"].startswith("CREATE INDEX r_c ON")
    assert run(postgres_settings).unused == []


def test_rows_of_old_jobs_are_moved_once_and_none_is_lost(postgres_settings: dict[str, Any]) -> None:
    with pytest.raises(MonthlyError, match="database_migrate"):
        run(postgres_settings, archive_days=90)
    jobs(postgres_settings)
    assert run(postgres_settings, archive_days=90, check=True).moved == 2
    assert run(postgres_settings, archive_days=90).moved == 2
    assert run(postgres_settings, archive_days=90).moved == 0
    with connect(postgres_settings) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, job_name, status FROM flux.mg_etl_job_archive ORDER BY id")
        assert cursor.fetchall() == [(1, "a", "completed"), (2, "a", "failed")]
        # The newest of each job stays, and what runs.
        cursor.execute("SELECT id FROM flux.mg_etl_job ORDER BY id")
        assert [number for (number,) in cursor] == [3, 4, 5, 6]
    connection.close()
