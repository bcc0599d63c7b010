"""The check of what is new: watermarks, late rows, and a random history that ends where a full sweep ends."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from gap_scenarios import scenarios, store
from ledger_database import create_ledger_tables
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from psycopg2.extras import execute_values
from telemetry_database import add_device, add_rows

from stationkeeper.telemetry import ledger
from stationkeeper.telemetry.gaps import find_gaps
from stationkeeper.telemetry.incremental import find_new_gaps
from stationkeeper.telemetry.source import TelemetryError


@pytest.fixture
def connection(postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    opened = create_ledger_tables(postgres_settings)
    yield opened
    opened.close()


def verify_until(connection: Connection, moment: datetime) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE flux.mg_coverage_state SET verified_until = %s", (moment,))


def active(connection: Connection) -> list[tuple[str, datetime, datetime]]:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT device_id::text, lower(span), upper(span) FROM flux.mg_gap_ledger"
            " WHERE state IN ('open', 'claimed') ORDER BY 1, 2"
        )
        return cursor.fetchall()


@pytest.mark.criterion("GR-3")
def test_only_what_is_new_is_looked_at(connection: Connection) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    start = now - timedelta(hours=12)
    device = add_device(connection, "A", cadence_s=60, active_from=start)
    times = [start + timedelta(minutes=number) for number in range(721)]
    add_rows(connection, device, times[:300] + times[320:])
    first = find_new_gaps(connection)
    assert (first.devices[0].start, first.gaps, first.rechecked) == (start, 1, ())
    assert ledger.record(connection, first, now).new == 1

    second = find_new_gaps(connection, lateness_s=1800)
    begin = first.settled_to - timedelta(seconds=1800)
    assert (second.devices[0].start, second.gaps) == (begin, 0)
    assert 28 <= second.devices[0].present <= 33
    # The gap that waits is looked at too, but nothing else of the past.
    (again,) = second.rechecked
    assert (again.start, again.end, again.missing) == (times[299], times[320], 20)
    assert not ledger.record(connection, second, now).changed

    # Ten of its rows come, hours late: far behind the watermark.
    add_rows(connection, device, times[300:310])
    assert ledger.record(connection, find_new_gaps(connection), now).reduced == 1
    assert active(connection) == [(device, times[309], times[320])]
    add_rows(connection, device, times[310:320])
    assert ledger.record(connection, find_new_gaps(connection), now).closed == 1
    assert find_new_gaps(connection).rechecked == ()


def test_a_silent_device_has_one_entry_that_grows(connection: Connection) -> None:
    now = datetime.now(UTC)
    start = now - timedelta(hours=6)
    device = add_device(connection, "A", cadence_s=60, active_from=start)
    for hours in (4, 2, 0):
        report = find_gaps(connection, start, now - timedelta(hours=hours))
        ledger.record(connection, report, now)
        ledger.record(connection, find_new_gaps(connection), now)
        ((_, begin, end),) = active(connection)
        assert begin == start - timedelta(minutes=1)
    add_rows(connection, device, [start + timedelta(minutes=number) for number in range(361)])
    assert ledger.record(connection, find_new_gaps(connection), now).closed == 1
    assert active(connection) == []
    assert end > now - timedelta(minutes=5)


def test_looks_that_begin_in_a_gap_do_not_eat_it_up(connection: Connection) -> None:
    """A watermark that creeps along a silent device, by less than a cadence with every look."""
    now = datetime.now(UTC)
    start = now - timedelta(hours=12)
    add_device(connection, "A", cadence_s=3600, active_from=start)
    ledger.record(connection, find_new_gaps(connection), now)
    ((_, begin, _),) = active(connection)
    for number in range(1, 8):
        verify_until(connection, start + timedelta(minutes=24 * number))
        ledger.record(connection, find_new_gaps(connection, lateness_s=1), now)
        assert [span[1] for span in active(connection)] == [begin]


def test_any_history_ends_where_a_full_sweep_ends(connection: Connection) -> None:
    """Rows come in a random order and late, looks begin behind the watermark: the ledger forgets nothing."""
    chance = random.Random(11)
    devices = scenarios(60, seed=3)
    store(connection, devices, keep=0.0)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT name, id::text FROM flux.mg_device_registry")
        ids = dict(cursor.fetchall())
    rows = [(one.kind, ids[one.name], moment) for one in devices for moment in one.times]
    # Most come in order, some much later.
    rows.sort(key=lambda row: row[2] + (timedelta(days=9) if chance.random() < 0.1 else timedelta(0)))
    step = len(rows) // 12 + 1
    for number in range(0, len(rows), step):
        for kind in ("bess", "meter"):
            some = [row[1:] for row in rows[number : number + step] if row[0] == kind]
            with connection, connection.cursor() as cursor:
                execute_values(
                    cursor, f"INSERT INTO flux.mg_{kind}_readings (device_id, time) VALUES %s", some
                )
        if number:
            # A watermark in the middle of what comes.
            verify_until(connection, rows[number][2])
        ledger.record(connection, find_new_gaps(connection, lateness_s=chance.choice([60, 3600])), rows[0][2])
    full = find_gaps(connection, rows[0][2] - timedelta(days=90), datetime.now(UTC))
    assert not ledger.foresee(connection, full).new
    held = active(connection)
    for coverage in full.devices:
        spans = [(start, end) for device, start, end in held if device == coverage.device.id]
        for gap in coverage.gaps:
            inside = sorted(span for span in spans if span[0] >= gap.start and span[1] <= gap.end)
            # Found in pieces perhaps, but wholly.
            assert inside, (coverage.device, gap)
            # Before its first day in service nothing was due.
            assert inside[0][0] <= max(gap.start, coverage.start)
            assert all(one[1] == other[0] for one, other in pairwise(inside))
    assert sum(len(coverage.gaps) for coverage in full.devices) > 100


def test_an_empty_registry_is_refused(connection: Connection) -> None:
    with pytest.raises(TelemetryError, match="is empty"):
        find_new_gaps(connection)
