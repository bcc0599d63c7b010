"""A day without the database: the controller's own buffer closes every gap, and nobody has to do anything.

Time is compressed: a sample every 50 ms, as many of each device as a day has at five minutes.
"""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import controller_process
import pytest
from controller_process import BATTERY_ID, METER_ID, NAMES, Station, wait_until
from postgres_cluster import PostgresCluster
from telemetry_database import create_tables

from stationkeeper.database.connection import connect
from stationkeeper.telemetry.gaps import Report, find_gaps

SAMPLES = 24 * 12
# The configuration allows no interval below 0.2 s.
FAST = """
from stationkeeper.controller.loop import DeviceLoop
begin = DeviceLoop.__init__
def fast(self, device, controller, **more):
    begin(self, device, controller.model_copy(update={"poll_interval_s": 0.05}), **more)
DeviceLoop.__init__ = fast
"""
EXACT = """
SELECT device_id::text, boot_id::text, min(seq), max(seq), count(seq), count(DISTINCT seq)
FROM (SELECT device_id, boot_id, seq, time FROM flux.mg_bess_readings
      UNION ALL SELECT device_id, boot_id, seq, time FROM flux.mg_meter_readings) AS stored
WHERE seq <= (%s::jsonb ->> device_id::text)::bigint
GROUP BY device_id, boot_id ORDER BY device_id
"""


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Station]:
    entry = controller_process.ENTRY.replace("from stationkeeper.cli", FAST + "from stationkeeper.cli")
    monkeypatch.setattr(controller_process, "ENTRY", entry)
    made = Station(tmp_path)
    made.start_simulator()
    yield made
    made.end()


def in_store(station: Station, query: str) -> list[tuple[Any, ...]]:
    """Ask the controller's buffer from outside."""
    connection = sqlite3.connect(f"file:{station.var}/buffer.db?mode=ro", uri=True)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def waiting(station: Station) -> list[int]:
    """Return how many rows of each device wait."""
    return [
        count
        for (count,) in in_store(
            station, "SELECT count(*) FROM samples WHERE uploaded_us IS NULL GROUP BY device_id"
        )
    ]


def exact(settings: dict[str, Any], last: dict[str, int]) -> list[tuple[Any, ...]]:
    """Return for each device and boot the first and last sequence number, and how many there are."""
    from psycopg2.extras import Json

    with connect(settings) as connection, connection.cursor() as cursor:
        cursor.execute(EXACT, (Json(last),))
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    connection.close()
    return rows


def register(settings: dict[str, Any], cadence_s: float) -> None:
    kinds = {BATTERY_ID: "bess", METER_ID: "meter"}
    with connect(settings) as connection, connection.cursor() as cursor:
        for identifier, kind in kinds.items():
            cursor.execute(
                "INSERT INTO flux.mg_device_registry (id, name, type, site, profile, cadence, active_from)"
                " VALUES (%s, %s, %s, 'WLCE', 'generic', make_interval(secs => %s), '2000-01-01Z')",
                (identifier, NAMES[identifier], kind, cadence_s),
            )
    connection.close()


def gaps_until(settings: dict[str, Any], first: datetime, last: datetime) -> Report:
    connection = connect(settings)
    try:
        return find_gaps(connection, first, last, k=3, settle_s=0)
    finally:
        connection.close()


@pytest.mark.criterion("GR-11")
def test_after_a_days_outage_every_gap_closes_by_itself(
    station: Station, private_postgres: PostgresCluster
) -> None:
    settings = private_postgres.create_database()
    create_tables(settings).close()
    station.use_database(settings)
    station.start_controller()
    unlimited = dict.fromkeys(NAMES, 10**9)
    wait_until(lambda: [row[4] > 20 for row in exact(settings, unlimited)] == [True] * 2, "first rows")
    private_postgres.stop()
    wait_until(lambda: [count >= SAMPLES for count in waiting(station)] == [True] * 2, "a day of samples")

    # Hold the controller still, to see the gap before it can close it.
    assert station.controller is not None
    station.controller.send_signal(signal.SIGSTOP)
    newest, end_us = in_store(station, "SELECT max(id), max(time_us) FROM samples")[0]
    (begin_us,) = in_store(
        station, "SELECT max(first) FROM (SELECT min(time_us) AS first FROM samples GROUP BY device_id)"
    )[0]
    last = dict(in_store(station, "SELECT device_id, max(seq) FROM samples GROUP BY device_id"))
    begin, end = (datetime.fromtimestamp(us / 1e6, UTC) for us in (begin_us, end_us))
    private_postgres.start()
    # However slow this machine is: as slow as the devices were really asked.
    register(settings, slowest_s(station))
    open_gaps = gaps_until(settings, begin, end)
    assert [len(coverage.gaps) for coverage in open_gaps.devices] == [1, 1]
    assert all(coverage.gaps[0].open for coverage in open_gaps.devices)
    assert any(count < last[device] for device, _, _, _, count, _ in exact(settings, last))

    station.controller.send_signal(signal.SIGCONT)
    wait_until(
        lambda: (
            not in_store(
                station, f"SELECT id FROM samples WHERE uploaded_us IS NULL AND id <= {newest} LIMIT 1"
            )
        ),
        "an empty backlog",
    )
    counted = exact(settings, last)
    assert len(counted) == len(NAMES), "one boot of each device"
    for device, _, least, greatest, count, different in counted:
        assert (least, greatest) == (1, last[device])
        assert greatest - least + 1 == count == different
        assert count > SAMPLES
    closed = gaps_until(settings, begin, end)
    assert closed.gaps == 0, closed.as_dict()


def slowest_s(station: Station) -> float:
    """Return the longest time between two answers of a device, in seconds."""
    times: dict[str, list[datetime]] = {name: [] for name in NAMES.values()}
    for entry in station.served_entries():
        if entry["function"] == 4 and entry["address"] == 0:
            times[entry["device"]].append(datetime.fromisoformat(entry["at"]))
    distances = [later - earlier for answers in times.values() for earlier, later in pairwise(answers)]
    return max(distances, default=timedelta(0)).total_seconds()
