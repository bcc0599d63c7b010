"""What weekly maintenance finds due, and does, on a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg2
import pytest
from module_runner import run_module
from postgres_cluster import PostgresCluster

from stationkeeper.database import maintenance, maintenance_read
from stationkeeper.database.connection import connect
from stationkeeper.database.maintenance import Rollup
from stationkeeper.database.maintenance_plan import (
    Index,
    Limits,
    Table,
    estimated_bloat,
    is_bloated,
    measured_bloat,
    vacuum_reason,
)

LIMITS = Limits(bloat_mb=0.5)
#: The server else gathers a session's statistics for up to a minute before others see them.
FLUSH = "SELECT pg_stat_force_next_flush()"


def table(**changes: Any) -> Table:
    values = {"live": 100_000, "dead": 0, "modified": 0, "inserted": 0, "age": 5, "analysed": True}
    return Table("flux", "t", **{**values, **changes})


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (table(), None),
        (table(dead=9_000), None),
        (table(dead=20_000), "20,000 of 120,000 rows dead"),
        (table(live=10, dead=900), None),
        (table(modified=30_000), "30,000 of 100,000 rows changed since analysed"),
        (table(inserted=30_000), "30,000 of 100,000 rows inserted since vacuumed"),
        (table(age=160_000_000), "age 160,000,000 of at most 150,000,000"),
        (table(analysed=False), "never analysed"),
    ],
)
def test_the_statistics_say_what_is_vacuumed(found: Table, reason: str | None) -> None:
    assert vacuum_reason(found, Limits()) == reason


def test_bloat_must_be_large_and_a_large_part() -> None:
    sizes = {"schema": "flux", "name": "i", "table": "flux.t", "valid": True}
    assert is_bloated(Index(**sizes, size=100 * 2**20, bloat=50 * 2**20), Limits())
    assert not is_bloated(Index(**sizes, size=100 * 2**20, bloat=30 * 2**20), Limits())
    assert not is_bloated(Index(**sizes, size=10 * 2**20, bloat=9 * 2**20), Limits())
    full = {"pages": 1011, "leaf_pages": 1000, "internal_pages": 10, "fillfactor": 90, "page_size": 8192}
    assert measured_bloat(**full, density=90.0) == 0
    assert measured_bloat(**full, density=45.0) == 500 * 8192
    # 20 bytes for each entry, 366 of them on a page.
    estimate = {"rows": 366_000.0, "key_bytes": 8.0, "fillfactor": 90, "page_size": 8192}
    assert estimated_bloat(pages=1020, **estimate) < 20 * 8192
    assert 970 * 8192 < estimated_bloat(pages=2000, **estimate) < 1000 * 8192


def fill(settings: dict[str, Any], *, extension: bool) -> None:
    """A table most of whose rows are dead, with two indexes that are mostly empty."""
    connection = connect(settings)
    connection.autocommit = True
    with connection.cursor() as cursor:
        if extension:
            cursor.execute("CREATE EXTENSION pgstattuple")
        cursor.execute("CREATE SCHEMA flux")
        cursor.execute("CREATE TABLE flux.t (a bigint PRIMARY KEY, b text)")
        cursor.execute("CREATE INDEX t_b ON flux.t (b)")
        cursor.execute("INSERT INTO flux.t SELECT a, 'name ' || a FROM generate_series(1, 60000) AS a")
        cursor.execute(FLUSH)
        cursor.execute("VACUUM ANALYZE flux.t")
        cursor.execute("DELETE FROM flux.t WHERE a % 10 <> 0")
        cursor.execute(FLUSH)
        cursor.execute("CREATE TABLE flux.state AS SELECT false AS fresh")
        cursor.execute(
            "CREATE FUNCTION flux.refresh(timestamptz, timestamptz) RETURNS bigint LANGUAGE sql AS"
            " 'WITH moved AS (UPDATE flux.state SET fresh = true WHERE NOT fresh RETURNING 1)"
            " SELECT count(*) FROM moved'"
        )
    connection.close()


def run(settings: dict[str, Any], **changes: Any) -> maintenance.Report:
    values = {"time_limit_s": 60.0, "lock_timeout_s": 0.3, "check": False, **changes}
    return maintenance.maintain(settings, values.pop("limits", LIMITS), **values)


ROLLUP = Rollup(days=7, function="flux.refresh")


@pytest.mark.parametrize("extension", [True, False])
def test_what_is_due_is_done_once(postgres_settings: dict[str, Any], extension: bool) -> None:
    fill(postgres_settings, extension=extension)
    planned = run(postgres_settings, rollup=ROLLUP, check=True)
    assert planned.done == []
    assert "vacuum flux.t: 54,000 of 60,000 rows dead" in planned.planned
    report = run(postgres_settings, rollup=ROLLUP)
    assert report.problems == []
    assert report.bloat_by == ("pgstattuple" if extension else "estimate")
    assert "refresh the rollup of the last 7 days: 1 buckets changed" in report.done
    # The vacuum made the pages empty that the REINDEX gives back.
    rebuilt = [line.split(":")[0] for line in report.done if line.startswith("reindex")]
    assert sorted(rebuilt) == ["reindex flux.t_b", "reindex flux.t_pkey"]
    assert report.freed_bytes > 2**20
    assert report.before["dead_rows"] >= 54_000
    assert report.after["dead_rows"] < 1000
    again = run(postgres_settings, rollup=ROLLUP)
    assert (again.done, again.problems, again.left) == ([], [], [])


def test_what_an_interrupted_reindex_left_is_dropped(postgres_settings: dict[str, Any]) -> None:
    fill(postgres_settings, extension=False)
    connection = connect(postgres_settings)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE INDEX t_b_ccnew ON flux.t (b)")
        cursor.execute("CREATE INDEX t_meant ON flux.t (b)")
        cursor.execute(
            "UPDATE pg_index SET indisvalid = false"
            " WHERE indexrelid IN ('flux.t_b_ccnew'::regclass, 'flux.t_meant'::regclass)"
        )
    connection.close()
    report = run(postgres_settings, limits=Limits(dead_rows=10**9))
    assert "drop flux.t_b_ccnew, left by an interrupted REINDEX of flux.t" in report.done
    # Somebody meant to have this one.
    assert report.problems == [
        "index flux.t_meant is invalid, its CREATE INDEX was interrupted: drop it or REINDEX it"
    ]


def test_a_table_that_is_held_is_named_and_nothing_waits_behind_it(postgres_settings: dict[str, Any]) -> None:
    fill(postgres_settings, extension=True)
    assert run(postgres_settings).problems == []
    connection = connect(postgres_settings)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM flux.t WHERE a % 100 <> 0")
        cursor.execute(FLUSH)
        connection.commit()
        cursor.execute("LOCK TABLE flux.t IN SHARE UPDATE EXCLUSIVE MODE")
        report = run(postgres_settings)
    connection.close()
    assert len(report.problems) == 1
    assert report.problems[0].startswith("vacuum flux.t")
    assert report.problems[0].endswith("database_sessions --check shows who")


def test_an_old_transaction_that_keeps_rows_is_named(postgres_settings: dict[str, Any]) -> None:
    fill(postgres_settings, extension=True)
    old = connect(postgres_settings)
    old.set_session(isolation_level="REPEATABLE READ")
    cursor = old.cursor()
    cursor.execute("SELECT 1 FROM flux.t LIMIT 1")
    with connect(postgres_settings) as other, other.cursor() as deleting:
        deleting.execute("DELETE FROM flux.t")
    other.close()
    report = run(postgres_settings, limits=Limits(bloat_mb=10**6))
    assert len(report.problems) == 1
    assert f"session {old.info.backend_pid} of postgres" in report.problems[0]
    assert report.problems[0].endswith("still sees them")
    old.close()


def test_what_a_reindex_that_waited_too_long_left_goes_next_time(postgres_settings: dict[str, Any]) -> None:
    fill(postgres_settings, extension=True)
    run(postgres_settings, limits=Limits(bloat_mb=10**6))
    old = connect(postgres_settings)
    cursor = old.cursor()
    # The rebuild waits for every transaction that has the table.
    cursor.execute("SELECT 1 FROM flux.t LIMIT 1")
    report = run(postgres_settings)
    old.rollback()
    assert [line.split(":")[0] for line in report.problems][:2] == ["reindex flux.t_b", "reindex flux.t_pkey"]
    with old.cursor() as cursor:
        # The new index is in its place already, and the old one waits for the transaction to be dropped.
        cursor.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid ORDER BY 1")
        left = [name for (name,) in cursor]
    old.close()
    assert left == ["flux.t_b_ccold", "flux.t_pkey_ccold"]
    again = run(postgres_settings)
    assert [line.split(",")[0] for line in again.done] == [f"drop {name}" for name in left]
    assert run(postgres_settings).done == []


def test_what_the_time_is_over_for_is_left(postgres_settings: dict[str, Any]) -> None:
    fill(postgres_settings, extension=True)
    report = run(postgres_settings, time_limit_s=0.5)
    assert report.done == []
    assert report.left == report.planned
    assert report.problems == []


def test_a_rollup_that_is_not_there_is_refused(postgres_settings: dict[str, Any]) -> None:
    with pytest.raises(maintenance.MaintenanceError, match="telemetry_rollup names: database_migrate"):
        run(postgres_settings, rollup=ROLLUP)


def test_the_module_says_what_it_did(
    tmp_path: Path, postgres_settings: dict[str, Any], postgres_cluster: PostgresCluster
) -> None:
    fill(postgres_settings, extension=True)
    arguments = {
        "database": postgres_settings["name"],
        "hosts": [str(postgres_cluster.directory)],
        "port": postgres_settings["port"],
        "bloat_mb": 0.5,
    }
    result = run_module(tmp_path, "database_maintenance", arguments)
    assert result["changed"], result
    assert result["diff"]["after"] == "".join(f"{line}\n" for line in result["done"])
    assert not result["standby"]


def test_a_server_that_is_down_is_an_error(postgres_settings: dict[str, Any]) -> None:
    with pytest.raises(psycopg2.OperationalError):
        run({**postgres_settings, "port": 1})


def test_statistics_over_chunks_are_made(postgres_settings: dict[str, Any]) -> None:
    connection = connect(postgres_settings)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE parent (a int) PARTITION BY RANGE (a)")
        cursor.execute("CREATE TABLE child PARTITION OF parent FOR VALUES FROM (0) TO (1000000)")
        cursor.execute("INSERT INTO parent SELECT generate_series(1, 5000)")
    connection.close()
    first = run(postgres_settings)
    assert first.done == [
        "vacuum public.child: never analysed",
        "analyse public.parent: no statistics over its chunks",
    ]
    second = run(postgres_settings)
    assert second.done == []
    with maintenance.session(postgres_settings) as opened:
        assert all(one.analysed for one in maintenance_read.tables(opened))
