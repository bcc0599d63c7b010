"""Rows of a restored instance, put back into the live table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta

import pytest
from postgres_cluster import PostgresCluster
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

from stationkeeper.database.connection import connect
from stationkeeper.restore.request import RestoreError
from stationkeeper.restore.rows import Returned, Span, put_back

START = datetime(2026, 1, 5, 22, tzinfo=UTC)
SPAN = Span("t.readings", "time", START, START + timedelta(hours=4))
TABLE = """
CREATE SCHEMA t;
CREATE TABLE t.readings (
    device integer, time timestamptz, value float8, note json,
    power float8 GENERATED ALWAYS AS (value * 2) STORED,
    PRIMARY KEY (device, time));
INSERT INTO t.readings SELECT d, '2026-01-05T22:00Z'::timestamptz + m * interval '1 minute', m, '{"a": 1}'
FROM generate_series(1, 2) d, generate_series(0, 239) m;
CREATE SCHEMA ops;
CREATE TABLE ops.retention (relation text PRIMARY KEY, dropped_before timestamptz);
"""


@pytest.fixture
def databases(postgres_cluster: PostgresCluster) -> Iterator[tuple[Connection, Connection]]:
    """The restored one and the live one, with the same 480 rows over midnight."""
    with ExitStack() as stack:
        both = []
        for _ in range(2):
            connection = stack.enter_context(closing(connect(postgres_cluster.create_database())))
            with connection, connection.cursor() as cursor:
                cursor.execute(TABLE)
            both.append(connection)
        yield both[0], both[1]


def change(connection: Connection, statement: str) -> None:
    """Commit a statement."""
    with connection, connection.cursor() as cursor:
        cursor.execute(statement)


def count(connection: Connection, condition: str = "true") -> int:
    """Count rows."""
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM t.readings WHERE {condition}")
        return int(cursor.fetchone()[0])  # type: ignore[index]


def test_only_what_is_missing_is_added_and_other_values_stay(
    databases: tuple[Connection, Connection],
) -> None:
    restored, live = databases
    change(live, "DELETE FROM t.readings WHERE device = 1 AND time >= '2026-01-05T23:30Z'")
    change(live, "UPDATE t.readings SET value = -1 WHERE device = 2 AND time < '2026-01-05T22:10Z'")
    change(live, "INSERT INTO t.readings VALUES (3, '2026-01-05T23:00Z', 7, NULL)")
    lost = 150
    assert put_back(restored, live, SPAN, dry_run=True) == Returned(480, lost, 10)
    assert count(live) == 480 - lost + 1
    assert put_back(restored, live, SPAN) == Returned(480, lost, 10)
    assert count(live) == 481
    assert count(live, "value = -1") == 10
    assert count(live, "device = 1 AND power = value * 2 AND note ->> 'a' = '1'") == 240
    assert put_back(restored, live, SPAN) == Returned(480, 0, 10)


def test_a_span_is_exact(databases: tuple[Connection, Connection]) -> None:
    restored, live = databases
    change(live, "TRUNCATE t.readings")
    part = Span("t.readings", "time", START + timedelta(minutes=1), START + timedelta(minutes=3))
    assert put_back(restored, live, part) == Returned(4, 4, 0)
    assert count(live, "time IN ('2026-01-05T22:01Z', '2026-01-05T22:02Z')") == count(live) == 4


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("ALTER TABLE t.readings ADD added integer", "other columns now.*added integer"),
        ("ALTER TABLE t.readings DROP CONSTRAINT readings_pkey", "no primary key"),
        ("INSERT INTO ops.retention VALUES ('t.readings', '2026-01-05T23:00Z')", "retention has dropped"),
        ("ALTER TABLE t.readings RENAME TO other", "the live database has no table"),
        ("CREATE UNIQUE INDEX ON t.readings (value)", "another unique index refuses them"),
    ],
)
def test_nothing_is_touched_where_it_does_not_fit(
    databases: tuple[Connection, Connection], statement: str, message: str
) -> None:
    restored, live = databases
    change(live, "DELETE FROM t.readings")
    change(live, statement)
    with pytest.raises(RestoreError, match=message):
        put_back(restored, live, SPAN)
    change(live, "ALTER TABLE IF EXISTS t.other RENAME TO readings")
    assert count(live) == 0


def test_what_is_no_span_is_refused() -> None:
    with pytest.raises(RestoreError, match="no table with its schema"):
        Span("readings", "time", START, START + timedelta(hours=1))
    with pytest.raises(RestoreError, match="is not before"):
        Span("t.readings", "time", START, START)
