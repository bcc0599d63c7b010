"""Gap detection on random scenarios, by rows and by hours, against an oracle that knows nothing of SQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from gap_scenarios import BASE, compare, scenarios, store, windows
from ledger_database import create_ledger_tables
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import add_device, add_rows

from stationkeeper.telemetry.coverage import find_gaps_by_hours, refresh
from stationkeeper.telemetry.gaps import find_gaps
from stationkeeper.telemetry.source import TelemetryError


@pytest.fixture
def connection(postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    opened = create_ledger_tables(postgres_settings)
    yield opened
    opened.close()


@pytest.mark.criterion("GR-1")
@pytest.mark.criterion("GR-2")
def test_random_scenarios_agree_with_the_oracle(connection: Connection) -> None:
    """Plain PostgreSQL; ring 4 holds TimescaleDB against the same scenarios."""
    with pytest.raises(TelemetryError, match="is empty"):
        find_gaps(connection, BASE, BASE + timedelta(hours=1))
    devices = scenarios(550, seed=20260131)
    store(connection, devices)
    gaps = 0
    for start, end, k in windows(seed=1):
        gaps += compare(find_gaps(connection, start, end, k=k), devices, k)
    assert gaps > 1000
    assert len([one for one in devices if not one.times]) > 30
    assert len([one for one in devices if one.active_to]) > 100


@pytest.mark.criterion("GR-10")
def test_naive_windows_are_refused_by_every_look(connection: Connection) -> None:
    naive = datetime(2025, 10, 26)  # noqa: DTZ001 (that is the point)
    for look in (find_gaps, find_gaps_by_hours, refresh):
        for start, end in ((naive, BASE), (BASE, naive)):
            with pytest.raises(TelemetryError, match="has no offset from UTC"):
                look(connection, start, end)


def test_hours_answer_like_the_rows(connection: Connection) -> None:
    """At every state of the table: empty, behind by late rows, up to date."""
    devices = scenarios(300, seed=5)
    first, last = BASE - timedelta(days=60), BASE + timedelta(days=3)
    # Half of the rows are there, then the others come late.
    store(connection, devices, keep=0.5, seed=1)
    asked = windows(seed=2)
    for start, end, k in asked:
        swept = find_gaps(connection, start, end, k=k)
        assert find_gaps_by_hours(connection, start, end, k=k) == swept
    assert refresh(connection, first, last).hours > 500
    for start, end, k in asked:
        assert find_gaps_by_hours(connection, start, end, k=k) == find_gaps(connection, start, end, k=k)
    store(connection, devices, keep=0.5, seed=2)
    for start, end, k in asked:
        swept, fast = find_gaps(connection, start, end, k=k), find_gaps_by_hours(connection, start, end, k=k)
        assert [c.gaps for c in fast.devices] == [c.gaps for c in swept.devices]
    store(connection, devices)
    # Rows that came late into hours without a question are found by reading all hours of that time again.
    age_s = (datetime.now(UTC) - first).total_seconds()
    assert refresh(connection, first, last, lateness_s=age_s).hours > 100
    for start, end, k in asked:
        fast = find_gaps_by_hours(connection, start, end, k=k)
        assert fast == find_gaps(connection, start, end, k=k)
        compare(fast, devices, k)
    assert refresh(connection, first, last, lateness_s=age_s).hours == 0


def test_an_hour_after_a_gap_is_complete_in_itself(connection: Connection) -> None:
    device = add_device(connection, "A", cadence_s=60, active_from=BASE)
    minutes = [*range(50), *range(125, 175), 179]
    add_rows(connection, device, [BASE + timedelta(minutes=minute) for minute in minutes])
    assert refresh(connection, BASE, BASE + timedelta(hours=3)).hours == 2
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT hour, rows, first_time - hour, last_time - hour, widest FROM flux.mg_coverage_hourly"
            " ORDER BY hour"
        )
        minute = timedelta(minutes=1)
        assert cursor.fetchall() == [
            (BASE, 50, timedelta(0), 49 * minute, minute),
            (BASE + timedelta(hours=2), 51, 5 * minute, 59 * minute, 5 * minute),
        ]
    # The hour that is not over yet is left out.
    now = datetime.now(UTC)
    add_rows(connection, device, [now - timedelta(seconds=5)])
    assert refresh(connection, now - timedelta(hours=3), now).hours == 0
