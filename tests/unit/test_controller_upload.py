"""Upload: every row arrives once, whatever happens to the database or to single rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from postgres_cluster import PostgresCluster

from stationkeeper.controller.clock import Clock
from stationkeeper.controller.metrics import Metrics
from stationkeeper.controller.store import Sample, Store
from stationkeeper.controller.upload import Tally, Uploader, upload_batch
from stationkeeper.database.connection import connect

DEVICE = "ab79127d-a435-5f3c-87bf-8943623e4134"
METER = "ab79127d-a435-5f3c-87bf-8943623e4135"
BOOT = "00000000-0000-4000-8000-000000000001"
TABLES = """
CREATE SCHEMA flux;
CREATE TABLE flux.mg_bess_readings (time timestamptz, device_id uuid, boot_id uuid, seq bigint,
  heartbeat bigint, power_kw float8, setpoint_kw float8, soe_percent float8, voltage_v float8,
  frequency_hz float8,
  temperature_c float8, status int, alarms bigint, time_quality text, PRIMARY KEY (device_id, time));
CREATE TABLE flux.mg_meter_readings (time timestamptz, device_id uuid, boot_id uuid, seq bigint,
  heartbeat bigint, power_kw float8, voltage_v float8, frequency_hz float8,
  energy_import_kwh float8, energy_export_kwh float8,
  time_quality text, PRIMARY KEY (device_id, time));
"""


def prepare(settings: dict[str, Any]) -> None:
    connection = connect(settings)
    connection.cursor().execute(TABLES)
    connection.commit()
    connection.close()


def fetch(settings: dict[str, Any], query: str) -> list[tuple[Any, ...]]:
    connection = connect(settings)
    with connection.cursor() as cursor:
        cursor.execute(query)
        rows = cursor.fetchall()
    connection.close()
    return rows


def sample(seq: int, **points: Any) -> Sample:
    values = {"heartbeat": seq, "power_kw": -1.25, "soe_percent": 50.5, "status": 3, "alarms": 0} | points
    return Sample("bess", DEVICE, BOOT, seq, 1_700_000_000_123_456 + seq, "synchronised", values)


def meter(seq: int) -> Sample:
    return Sample("meter", METER, BOOT, seq, 1_700_000_000_000_001 + seq, "unsynchronised", {"power_kw": 2.0})


def wait_until(condition: Callable[[], bool], within_s: float = 90) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "buffer.db")
    yield opened
    opened.close()


@pytest.fixture
def database(postgres_settings: dict[str, Any]) -> dict[str, Any]:
    prepare(postgres_settings)
    return postgres_settings


def test_values_and_times_arrive_exactly(store: Store, database: dict[str, Any]) -> None:
    store.append([sample(1), meter(1), sample(2, power_kw=None)])
    connection = connect(database)
    assert upload_batch(connection, store, store.oldest(10)) == Tally(uploaded=3)
    assert store.size().rows == 0
    assert fetch(
        database,
        "SELECT seq, to_char(time, 'YYYY-MM-DD HH24:MI:SS.US'), power_kw, soe_percent, voltage_v, status, "
        "boot_id::text FROM flux.mg_bess_readings ORDER BY seq",
    ) == [
        (1, "2023-11-14 22:13:20.123457", -1.25, 50.5, None, 3, BOOT),
        (2, "2023-11-14 22:13:20.123458", None, 50.5, None, 3, BOOT),
    ]
    assert fetch(database, "SELECT power_kw, time_quality FROM flux.mg_meter_readings") == [
        (2, "unsynchronised")
    ]
    connection.close()


def test_a_repeated_row_counts_as_conflict_and_a_different_one_is_kept(
    store: Store, database: dict[str, Any]
) -> None:
    connection = connect(database)
    store.append([sample(1)])
    upload_batch(connection, store, store.oldest(10))
    # The same row again: what a lost acknowledgement of COMMIT looks like.
    store.append([sample(2)])
    assert store.send_again(sample(1).time_us) == 1
    assert upload_batch(connection, store, store.oldest(10)) == Tally(uploaded=1, conflicting=1)
    clash = Sample("bess", DEVICE, BOOT, 9, sample(1).time_us, "synchronised", {})
    store.append([clash, sample(3)])
    assert upload_batch(connection, store, store.oldest(10)) == Tally(uploaded=1, rejected=1)
    assert store.summary()["rejected_rows"] == 1
    assert fetch(database, "SELECT count(*) FROM flux.mg_bess_readings") == [(3,)]
    connection.close()


@pytest.mark.parametrize(
    "poison", [{"status": 2**40}, {"status": "on"}, {"power_kw": "a\0b"}, {"power_kw": {"x": 1}}]
)
def test_a_poison_row_is_isolated(
    store: Store, database: dict[str, Any], poison: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    store.append([sample(seq, **(poison if seq == 37 else {})) for seq in range(1, 101)])
    connection = connect(database)
    with caplog.at_level(logging.ERROR):
        tally = upload_batch(connection, store, store.oldest(100))
    assert tally == Tally(uploaded=99, rejected=1)
    assert store.size().rows == 0
    assert store.summary()["rejected_rows"] == 1
    assert fetch(database, "SELECT count(*) FROM flux.mg_bess_readings WHERE seq <> 37") == [(99,)]
    assert "seq 37" in caplog.text
    connection.close()


def test_a_missing_table_or_right_is_nobodys_poison(store: Store, postgres_settings: dict[str, Any]) -> None:
    store.append([sample(1)])
    connection = connect(postgres_settings)
    with pytest.raises(psycopg2.ProgrammingError, match="does not exist"):
        upload_batch(connection, store, store.oldest(10))
    assert store.summary()["rejected_rows"] == 0
    assert store.size().rows == 1
    connection.close()


def test_the_database_goes_and_comes_back(tmp_path: Path, private_postgres: PostgresCluster) -> None:
    settings = private_postgres.create_database()
    prepare(settings)
    path = tmp_path / "buffer.db"
    store = Store(path)
    metrics = Metrics("WLCE")
    uploader = Uploader(
        lambda: Store(path),
        lambda: settings,
        metrics,
        batch_size=20,
        interval_s=0.05,
        retention_s=3600,
        clock=Clock(),
        max_backoff_s=0.5,
    )
    uploader.start()
    seqs = iter(range(1, 10_000))
    for _ in range(30):
        store.append([sample(next(seqs))])
    wait_until(lambda: store.size().rows == 0)
    private_postgres.stop()
    for _ in range(150):
        store.append([sample(next(seqs))])
    assert store.size().rows == 150
    private_postgres.start()
    wait_until(lambda: store.size().rows == 0)
    uploader.stop()
    uploader.join(5)
    assert fetch(
        settings, "SELECT count(*), count(DISTINCT seq), min(seq), max(seq) FROM flux.mg_bess_readings"
    ) == [(180, 180, 1, 180)]
    assert metrics.registry.get_sample_value("stationkeeper_rows_uploaded_total", {"site": "WLCE"}) == 180
    assert metrics.registry.get_sample_value("stationkeeper_last_upload_timestamp_seconds", {"site": "WLCE"})
    store.close()


def test_a_reload_sends_what_waits_at_once(tmp_path: Path, database: dict[str, Any]) -> None:
    path = tmp_path / "buffer.db"
    store = Store(path)
    metrics = Metrics("WLCE")
    # It would wait for an hour, after a success and after a failure.
    hour = {"interval_s": 3600, "max_backoff_s": 3600.0, "batch_size": 20, "retention_s": 3600}
    uploader = Uploader(lambda: Store(path), lambda: database, metrics, clock=Clock(), **hour)
    uploader.start()
    for seq in (1, 2):
        store.append([sample(seq)])
        uploader.reconnect()
        wait_until(lambda: store.size().rows == 0)
    uploader.stop()
    uploader.join(5)
    assert not uploader.is_alive()
    store.close()


def test_a_backend_killed_in_the_middle_loses_and_doubles_nothing(
    tmp_path: Path, store: Store, database: dict[str, Any]
) -> None:
    store.append([sample(seq) for seq in range(1, 2001)])
    uploader = Uploader(
        lambda: Store(tmp_path / "buffer.db"),
        lambda: database,
        Metrics("WLCE"),
        batch_size=25,
        interval_s=0.05,
        retention_s=3600,
        clock=Clock(),
        max_backoff_s=0.1,
    )
    uploader.start()
    killer = connect(database, application_name="killer")
    killer.autocommit = True
    end = time.monotonic() + 90
    while store.size().rows and time.monotonic() < end:
        killer.cursor().execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'bess_controller%'"
        )
        time.sleep(0.1)
    uploader.stop()
    uploader.join(5)
    killer.close()
    assert fetch(database, "SELECT count(*), count(DISTINCT seq) FROM flux.mg_bess_readings") == [
        (2000, 2000)
    ]
    assert store.summary()["rejected_rows"] == 0


def test_a_wrong_password_is_told_without_the_password(
    tmp_path: Path, store: Store, database: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    store.append([sample(1)])
    settings = database | {"password": "hunter2"}
    uploader = Uploader(
        lambda: Store(tmp_path / "buffer.db"),
        lambda: settings,
        Metrics("WLCE"),
        batch_size=20,
        interval_s=0.05,
        retention_s=3600,
        clock=Clock(),
        max_backoff_s=0.1,
    )
    with caplog.at_level(logging.INFO):
        uploader.start()
        wait_until(lambda: "password authentication failed" in caplog.text)
        settings["password"] = database["password"]
        wait_until(lambda: "uploading again" in caplog.text)
    uploader.stop()
    uploader.join(5)
    assert "hunter2" not in caplog.text
    assert store.size().rows == 0
