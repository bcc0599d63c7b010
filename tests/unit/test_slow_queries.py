"""What statements cost, by a server that counts them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from module_runner import run_module
from postgres_cluster import PostgresCluster

from stationkeeper.database.connection import connect
from stationkeeper.database.slow_queries import SlowQueryError, redacted_plan, slow

VALUES: dict[str, Any] = {"limit": 5, "mean_ms": 50.0, "least_calls": 1, "running_s": 60.0, "plans": True}


@pytest.fixture(scope="module")
def counting() -> Iterator[PostgresCluster]:
    cluster = PostgresCluster()
    try:
        cluster.start(shared_preload_libraries="pg_stat_statements")
        yield cluster
    finally:
        cluster.remove()


def test_plans_have_no_strings() -> None:
    assert (
        redacted_plan("  Filter: (name = 'it''s me'::text)  rows=12") == "  Filter: (name = ?::text)  rows=12"
    )


def test_a_server_that_does_not_count_says_what_to_do(postgres_settings: dict[str, Any]) -> None:
    with pytest.raises(SlowQueryError, match="timescaledb_other_extensions"):
        slow(postgres_settings, **VALUES)
    with connect(postgres_settings) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE EXTENSION pg_stat_statements")
    connection.close()
    with pytest.raises(SlowQueryError, match="timescaledb_other_preload_libraries"):
        slow(postgres_settings, **VALUES)


def test_slow_statements_are_told_without_their_data(tmp_path: Path, counting: PostgresCluster) -> None:
    settings = counting.create_database()
    connection = connect(settings)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE EXTENSION pg_stat_statements")
        cursor.execute("CREATE TABLE readings AS SELECT 'secret' AS name")
        cursor.execute("SELECT pg_sleep(0.1), name FROM readings WHERE name = 'secret'")
        for _ in range(20):
            cursor.execute("SELECT count(*) FROM readings WHERE name <> 'secret'")
    arguments = {
        "database": settings["name"],
        "hosts": [str(counting.directory)],
        "port": settings["port"],
        "mean_ms": 50,
        "running_s": 0,
    }
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        result = run_module(tmp_path, "database_slow_queries", arguments, check=True, hidden="secret")
    connection.close()
    (one,) = [item for item in result["by_mean"] if "pg_sleep" in item["query"]]
    assert one["query"] == "SELECT pg_sleep($1), name FROM readings WHERE name = $2"
    assert (one["calls"], one["user"], one["rows"]) == (1, "postgres", 1)
    assert one["mean_ms"] >= 100
    # From PostgreSQL 16 on a generic plan, before that the reason why there is none.
    assert bool(one["plan"]) != bool(one["no_plan"])
    assert max(item["calls"] for item in result["by_total"]) == 20
    assert not result["changed"]
