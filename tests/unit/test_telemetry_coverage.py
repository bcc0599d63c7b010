"""What the hourly table knows of holes: it is believed only as far as rows cannot have changed it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ledger_database import create_ledger_tables
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import ROOT, add_device, add_rows

from stationkeeper.database.statements import split
from stationkeeper.telemetry.coverage import find_gaps_by_hours, refresh
from stationkeeper.telemetry.gaps import find_gaps
from stationkeeper.telemetry.source import TelemetryError

BASE = datetime(2026, 1, 1, tzinfo=UTC)
END = BASE + timedelta(hours=6)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def connection(postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    opened = create_ledger_tables(postgres_settings)
    yield opened
    opened.close()


@pytest.fixture
def device(connection: Connection) -> str:
    return add_device(connection, "A", cadence_s=60, active_from=BASE)


def store(connection: Connection, device: str, minutes: Sequence[float]) -> None:
    add_rows(connection, device, [BASE + minute * MINUTE for minute in minutes])


def query(connection: Connection, text: str) -> list[tuple[Any, ...]]:
    with connection, connection.cursor() as cursor:
        cursor.execute(text)
        return cursor.fetchall() if cursor.description else []


def both(connection: Connection, k: float = 1.5, start: datetime = BASE) -> list[tuple[int, int]]:
    """Hold the two ways against each other; return the gaps in minutes."""
    swept = find_gaps(connection, start, END, k=k)
    assert find_gaps_by_hours(connection, start, END, k=k) == swept
    (one,) = swept.devices
    return [((gap.start - BASE) // MINUTE, (gap.end - BASE) // MINUTE) for gap in one.gaps]


def test_holes_are_listed_and_rows_that_came_into_one_are_counted(
    connection: Connection, device: str
) -> None:
    # A hole within an hour, one from hour to hour, a whole hour, and one with two rows alone in it.
    there = [m for m in range(360) if not (10 < m < 20 or 50 < m < 70 or 115 < m < 185 or 200 < m < 230)]
    store(connection, device, [*there, 210, 211])
    assert refresh(connection, BASE, END).hours == 5
    assert query(
        connection,
        "SELECT extract(hour FROM hour)::int, rows::int, widest, steady, cardinality(holes), apart"
        " FROM flux.mg_coverage_hourly ORDER BY hour",
    ) == [
        (0, 42, 10 * MINUTE, MINUTE, 1, None),
        (1, 46, MINUTE, MINUTE, 0, 20 * MINUTE),
        (3, 28, 19 * MINUTE, MINUTE, 2, 70 * MINUTE),
        (4, 60, MINUTE, MINUTE, 0, MINUTE),
        (5, 60, MINUTE, MINUTE, 0, MINUTE),
    ]
    holes = [(10, 20), (50, 70), (115, 185), (200, 210), (211, 230)]
    assert both(connection) == holes
    assert both(connection, 15) == [(50, 70), (115, 185), (211, 230)]
    assert both(connection, start=BASE + 15 * MINUTE)[1:] == holes[1:]
    # Nothing has come: there is nothing to read again.
    assert refresh(connection, BASE, END, lateness_s=0).stretches == 1
    store(connection, device, [15, 60, 120, 121, 215])
    assert both(connection) == [
        *((10, 15), (15, 20), (50, 60), (60, 70), (115, 120)),
        *((121, 185), (200, 210), (211, 215), (215, 230)),
    ]
    assert refresh(connection, BASE, END, lateness_s=0).hours == 4
    assert len(both(connection)) == 9
    assert refresh(connection, BASE, END, lateness_s=0).hours == 0


def test_an_hour_with_many_holes_is_read_row_by_row(connection: Connection, device: str) -> None:
    # Rows come too slowly in the second hour: more holes than the table lists. In the fourth there is one.
    slow = [60 + n * 1.6 for n in range(37)]
    store(connection, device, [*range(60), *slow, *range(120, 200), 200.2, *range(205, 360)])
    refresh(connection, BASE, END)
    assert query(connection, "SELECT max(cardinality(holes)), max(steady) FROM flux.mg_coverage_hourly") == [
        (1, timedelta(seconds=96))
    ]
    assert len(both(connection)) == 38
    assert both(connection, 1.7) == [(117, 120), (200, 205)]
    # A smaller k than the table was made with makes more holes than it lists.
    assert both(connection, 1.01)[-2:] == [(199, 200), (200, 205)]


def test_a_refresh_of_a_part_hides_no_rows_that_came_before_it(connection: Connection, device: str) -> None:
    store(connection, device, [m for m in range(360) if not 40 < m < 80])
    refresh(connection, BASE, END)
    store(connection, device, range(41, 80))
    # The hour before it is not read again, so the distance to it stays a question.
    assert refresh(connection, BASE + timedelta(hours=1), END, lateness_s=10**9).hours == 1
    assert both(connection) == []
    assert refresh(connection, BASE, END, lateness_s=0).hours > 0
    (rows,) = query(connection, "SELECT sum(rows)::int, max(apart) FROM flux.mg_coverage_hourly")
    assert rows == (360, MINUTE)


def test_what_an_older_migration_left_is_used_and_brought_up_to_date(
    connection: Connection, device: str
) -> None:
    store(connection, device, [m for m in range(360) if not (70 < m < 90 or 170 < m < 190)])
    refresh(connection, BASE, END)
    made = query(connection, "SELECT * FROM flux.mg_coverage_hourly ORDER BY hour")
    query(
        connection,
        "ALTER TABLE flux.mg_coverage_hourly"
        " DROP COLUMN steady, DROP COLUMN holes, DROP COLUMN apart CASCADE",
    )
    for look in (find_gaps_by_hours, refresh):
        with pytest.raises(TelemetryError, match="lacks the column apart: run the migrations first"):
            look(connection, BASE, END)
    query(
        connection,
        "ALTER TABLE flux.mg_coverage_hourly"
        " ADD CONSTRAINT mg_coverage_hourly_pkey PRIMARY KEY (device_id, hour)",
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL ROLE flux_owner")
        for statement in split((ROOT / "migrations/flux/0010_coverage_holes.sql").read_text()):
            cursor.execute(statement.text)
    assert both(connection) == [(70, 90), (170, 190)]
    # Only the hour whose hole is not listed yet.
    assert refresh(connection, BASE, END, lateness_s=0).hours == 1
    again = query(connection, "SELECT * FROM flux.mg_coverage_hourly ORDER BY hour")
    assert [row[:6] + row[7:] for row in again] == [row[:6] + row[7:] for row in made]
