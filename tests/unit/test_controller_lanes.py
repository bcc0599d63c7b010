"""Store and forward in depth: lanes, retention, known gaps, and times that are corrected."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stationkeeper.controller import command, upload
from stationkeeper.controller.clock import Clock, Stamp
from stationkeeper.controller.metrics import Metrics
from stationkeeper.controller.recorder import MEMORY_SAMPLES, Recorder
from stationkeeper.controller.store import HOLD_BACK_US, HoldBack, Row, Sample, Store, StoreError
from stationkeeper.controller.upload import Tally, Uploader, upload_gaps
from stationkeeper.database.connection import connect

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "ab79127d-a435-5f3c-87bf-8943623e4134"
BOOT = "00000000-0000-4000-8000-000000000001"
DAY_S = 86400.0
# 1 November 2026, and 1000 s after the host's start.
WALL_US, MONOTONIC_US = 1_793_491_200_000_000, 1_000_000_000


def sample(seq: int, quality: str = "synchronised", host_boot: str = "h1") -> Sample:
    monotonic_us = MONOTONIC_US + 1_000_000 * seq
    values = {"heartbeat": seq, "power_kw": 1.5}
    return Sample("bess", DEVICE, BOOT, seq, WALL_US + seq, quality, values, monotonic_us, host_boot)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "buffer.db")
    yield opened
    opened.close()


class SetClock(Clock):
    """A clock that the test sets."""

    def __init__(self, quality: str = "synchronised", monotonic_us: int = MONOTONIC_US) -> None:
        self.present = Stamp(WALL_US, quality, monotonic_us, "h1")

    def stamp(self) -> Stamp:
        return self.present


class Lanes(Uploader):
    """An uploader without a database: it notes the batches."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch, clock: Clock | None = None) -> None:
        self.batches: list[list[int]] = []
        self.told = Metrics("WLCE")
        super().__init__(
            lambda: store,
            dict,
            self.told,
            batch_size=5,
            interval_s=1,
            retention_s=DAY_S,
            clock=clock or SetClock(),
        )

        def note(connection: Any, into: Store, rows: Sequence[Row]) -> Tally:
            self.batches.append([row.sample.seq for row in rows])
            into.uploaded(rows)
            self.between(len(self.batches))
            return Tally(uploaded=len(rows))

        monkeypatch.setattr(upload, "upload_batch", note)
        monkeypatch.setattr(self, "_connected", lambda: None)
        self.between: Callable[[int], None] = lambda batch: None

    def drain(self) -> list[list[int]]:
        self.batches.clear()
        self._drain()
        return self.batches


@pytest.mark.criterion("CT-5")
def test_the_newest_rows_go_first_and_the_backlog_from_its_old_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = Lanes(store, monkeypatch)
    store.append([sample(seq) for seq in range(1, 21)])

    def arrive(batch: int) -> None:
        if batch == 2 and store.size().rows == 10:
            store.append([sample(21), sample(22)])

    lanes.between = arrive
    assert lanes.drain() == [
        [20, 19, 18, 17, 16],
        [1, 2, 3, 4, 5],
        # What arrived meanwhile does not wait for the backlog.
        [22, 21],
        [6, 7, 8, 9, 10],
        [11, 12, 13, 14, 15],
    ]
    assert store.size().rows == 0
    store.append([sample(23)])
    assert lanes.drain() == [[23]]


@pytest.mark.criterion("CT-5")
def test_rows_stay_after_the_commit_until_their_retention_has_passed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append([sample(seq) for seq in range(1, 4)])
    now_us = [WALL_US]
    monkeypatch.setattr("stationkeeper.controller.store.time.time_ns", lambda: now_us[0] * 1000)
    store.uploaded(store.oldest(2))
    assert store.size().rows == 1
    assert store.summary()["kept_rows"] == 2
    now_us[0] += int(DAY_S * 1e6) - 1
    assert store.forget_uploaded(DAY_S) == 0
    now_us[0] += 1
    assert store.forget_uploaded(DAY_S) == 2
    assert store.summary()["kept_rows"] == 0
    # What was never committed stays, however old.
    now_us[0] *= 2
    assert store.forget_uploaded(DAY_S) == 0
    assert [row.sample.seq for row in store.oldest(9)] == [3]


@pytest.mark.criterion("CT-5")
def test_a_database_that_lost_rows_gets_them_again(store: Store) -> None:
    store.append([sample(seq) for seq in range(1, 6)])
    store.uploaded(store.oldest(5))
    assert store.send_again(WALL_US + 4) == 2
    assert [row.sample.seq for row in store.oldest(9)] == [4, 5]
    assert store.size().rows == 2


@pytest.mark.criterion("CT-5")
def test_space_is_made_from_uploaded_rows_before_anything_is_lost(tmp_path: Path) -> None:
    store = Store(tmp_path / "buffer.db", max_bytes=300_000)
    for first in range(0, 4000, 50):
        assert store.append([sample(seq) for seq in range(first, first + 50)]) == 0
        store.uploaded(store.oldest(50))
    assert store.size().bytes <= 310_000
    summary = store.summary()
    assert summary["dropped"] == []
    assert 0 < summary["kept_rows"] < 4000
    store.close()


@pytest.mark.criterion("CT-5")
def test_a_dropped_range_is_a_known_gap_without_the_rows_that_got_through(tmp_path: Path) -> None:
    store = Store(tmp_path / "buffer.db", max_rows=4)
    store.append([sample(seq) for seq in range(1, 5)])
    # The live lane has sent row 2 before the backlog came to it.
    store.uploaded([row for row in store.oldest(9) if row.sample.seq == 2])
    store.append([sample(seq) for seq in range(5, 10)])
    ranges = [(gap.first_seq, gap.last_seq, gap.rows) for gap in store.gaps(9)]
    assert ranges == [(1, 1, 1), (3, 5, 3)]
    store.gaps_uploaded(store.gaps(9))
    assert store.gaps(9) == []
    store.append([sample(10)])
    assert [(gap.first_seq, gap.last_seq, gap.rows) for gap in store.gaps(9)] == [(3, 6, 4)]
    assert store.summary()["dropped_not_uploaded"] == 1
    store.close()


@pytest.mark.criterion("CT-5")
def test_samples_that_no_disk_took_are_a_known_gap_too(tmp_path: Path) -> None:
    store = Store(tmp_path / "buffer.db")
    real = store.append

    def refuse(samples: Any) -> int:
        raise StoreError("database or disk is full")

    async def scenario() -> None:
        recorder = Recorder(lambda: store, Metrics("WLCE"))
        await recorder.start()
        store.append = refuse  # type: ignore[method-assign]
        for seq in range(1, MEMORY_SAMPLES + 4):
            await recorder.save(sample(seq))
        store.append = real  # type: ignore[method-assign]
        await recorder.save(sample(MEMORY_SAMPLES + 4))
        await recorder.save(sample(MEMORY_SAMPLES + 5))
        await recorder.close()

    asyncio.run(scenario())
    (gap,) = Store(tmp_path / "buffer.db").gaps(9)
    assert (gap.first_seq, gap.last_seq, gap.reason) == (MEMORY_SAMPLES + 1, MEMORY_SAMPLES + 4, "not stored")


@pytest.mark.criterion("CT-1")
def test_times_from_before_the_clock_was_right_are_corrected_or_stay_flagged(store: Store) -> None:
    wrong = [sample(1, "unsynchronised"), sample(2, "unsynchronised", "another start"), sample(3)]
    store.append([replace(each, time_us=1000 + each.seq) for each in wrong])
    offset_us = WALL_US - MONOTONIC_US
    assert store.correct(offset_us, "h1") == 1
    found = {row.sample.seq: (row.sample.time_us, row.sample.time_quality) for row in store.oldest(9)}
    assert found == {
        1: (WALL_US + 1_000_000, "corrected"),
        2: (1002, "unsynchronised"),
        3: (1003, "synchronised"),
    }
    assert store.correct(offset_us, "h1") == 0


@pytest.mark.criterion("CT-1")
def test_rows_wait_for_a_right_clock_for_a_while_and_then_go_flagged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SetClock("unsynchronised", MONOTONIC_US + 10_000_000)
    lanes = Lanes(store, monkeypatch, clock)
    store.append([sample(1, "unsynchronised"), sample(2, "unsynchronised", "another start"), sample(3)])
    assert lanes.drain() == [[3, 2]]
    clock.present = replace(clock.present, monotonic_us=MONOTONIC_US + 1_000_000 + HOLD_BACK_US - 1)
    assert lanes.drain() == []
    clock.present = replace(clock.present, monotonic_us=MONOTONIC_US + 1_000_000 + HOLD_BACK_US)
    assert lanes.drain() == [[1]]
    store.append([sample(4, "unsynchronised")])
    clock.present = replace(clock.present, monotonic_us=MONOTONIC_US + 5_000_000)
    assert lanes.drain() == []
    clock.present = replace(clock.present, quality="synchronised")
    assert lanes.drain() == [[4]]
    corrected = lanes.told.registry.get_sample_value("stationkeeper_rows_corrected_total", {"site": "WLCE"})
    assert corrected == 1


def test_a_real_clock_tells_both_times_of_one_instant() -> None:
    first, second = Clock().stamp(), Clock().stamp()
    assert first.host_boot == second.host_boot
    assert second.monotonic_us >= first.monotonic_us
    assert HoldBack.of(first).host_boot == first.host_boot
    # As the unit says it, whose sandbox hides the kernel's file.
    assert Clock({"STATIONKEEPER_HOST_BOOT": "b00t"}).stamp().host_boot == "b00t"


OLD_STORE = """
CREATE TABLE samples (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, device_id TEXT NOT NULL,
  boot_id TEXT NOT NULL, seq INTEGER NOT NULL, time_us INTEGER NOT NULL, time_quality TEXT NOT NULL,
  payload TEXT NOT NULL, UNIQUE (device_id, boot_id, seq)) STRICT;
CREATE TABLE dropped (id INTEGER PRIMARY KEY, device_id TEXT NOT NULL, boot_id TEXT NOT NULL,
  first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, first_us INTEGER NOT NULL, last_us INTEGER NOT NULL,
  rows INTEGER NOT NULL) STRICT;
CREATE TABLE counter (only INTEGER PRIMARY KEY CHECK (only = 1), rows INTEGER NOT NULL) STRICT;
INSERT INTO counter VALUES (1, 0);
CREATE TRIGGER counted AFTER INSERT ON samples BEGIN UPDATE counter SET rows = rows + 1; END;
CREATE TRIGGER discounted AFTER DELETE ON samples BEGIN UPDATE counter SET rows = rows - 1; END;
INSERT INTO samples (kind, device_id, boot_id, seq, time_us, time_quality, payload)
  VALUES ('bess', 'd', 'b', 1, 5, 'synchronised', '{}'), ('bess', 'd', 'b', 2, 6, 'unsynchronised', '{}');
INSERT INTO dropped (device_id, boot_id, first_seq, last_seq, first_us, last_us, rows)
  VALUES ('d', 'a', 1, 4, 1, 4, 4);
"""


def test_a_store_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    connection = sqlite3.connect(path)
    connection.executescript(OLD_STORE)
    connection.close()
    for _ in range(2):
        store = Store(path)
        assert store.set_aside is None
        assert [row.sample.seq for row in store.oldest(9)] == [1, 2]
        assert store.size().rows == 2
        assert [gap.reason for gap in store.gaps(9)] == ["store full"]
        assert store.correct(1, "") == 0, "without its place on the host's clock no row is corrected"
        store.close()
    store = Store(path)
    store.append([sample(3)])
    store.uploaded(store.oldest(2))
    assert store.size().rows == 1
    store.close()


@pytest.mark.criterion("CT-5")
def test_known_gaps_reach_the_database_and_grow_there(
    tmp_path: Path, postgres_settings: dict[str, Any]
) -> None:
    store = Store(tmp_path / "buffer.db", max_rows=4)
    connection = connect(postgres_settings)
    uploader = Uploader(
        lambda: store,
        lambda: postgres_settings,
        Metrics("WLCE"),
        batch_size=5,
        interval_s=1,
        retention_s=DAY_S,
        clock=SetClock(),
    )
    store.append([sample(seq) for seq in range(1, 8)])
    for row in store.oldest(9):
        store.uploaded([row])
    # An older database does not know the table: the gaps wait.
    uploader._drain()
    assert len(store.gaps(9)) == 1
    uploader._disconnect()
    migration = (ROOT / "migrations/flux/0004_known_gaps.sql").read_text()
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA IF NOT EXISTS flux")
        for role in ("flux_writer", "flux_reader", "flux_operator"):
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
            if cursor.fetchone() is None:
                cursor.execute(f"CREATE ROLE {role}")
        cursor.execute(migration)
    connection.commit()
    uploader._drain()
    assert store.gaps(9) == []
    store.append([sample(seq) for seq in range(8, 13)])
    assert upload_gaps(connection, store) == 1
    assert upload_gaps(connection, store) == 0
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT first_seq, last_seq, samples, reason FROM flux.mg_known_gaps ORDER BY first_seq"
        )
        assert cursor.fetchall() == [(1, 3, 3, "store full"), (8, 8, 1, "store full")]
    uploader._disconnect()
    connection.close()
    store.close()


@pytest.mark.criterion("CT-5")
def test_attempts_to_reconnect_spread_and_grow_up_to_a_bound(store: Store) -> None:
    uploader = Uploader(
        lambda: store, dict, Metrics("WLCE"), batch_size=5, interval_s=1, retention_s=DAY_S, clock=SetClock()
    )
    for failures, bound_s in ((0, 0.5), (1, 1.0), (3, 4.0), (10, 15.0), (99, 15.0)):
        delays = {uploader._fail("away", failures) for _ in range(50)}
        assert all(bound_s / 2 <= delay <= bound_s for delay in delays)
        assert len(delays) > 10, "a fleet must not come back in one moment"


def test_the_command_sends_kept_rows_again(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.append([sample(seq) for seq in range(1, 6)])
    store.uploaded(store.oldest(5))
    places = [f"--state-dir={tmp_path}", f"--config-dir={tmp_path}"]
    assert command.run(["requeue", *places, "--since", "2026-11-01T00:00:00Z"]) == 0
    assert "5 uploaded rows are in the queue again" in capsys.readouterr().out
    assert command.run(["requeue", *places]) == 0
    assert command.run(["requeue", *places, "--since", "yesterday"]) == 1
    assert "is not a time" in capsys.readouterr().err
