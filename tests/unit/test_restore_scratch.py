"""Restores into a scratch instance, by pgBackRest and PostgreSQL themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from backup_world import BackupWorld

from free_port import free_port
from stationkeeper.restore import contents
from stationkeeper.restore.proof import prove
from stationkeeper.restore.request import RestoreError, parse_request
from stationkeeper.restore.scratch import Scratch


class World(BackupWorld):
    """Rows 1 to 5 and the moment after each; backups before the first and after the third."""

    def __init__(self) -> None:
        super().__init__()
        self.moments: list[datetime] = []
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE readings (n integer PRIMARY KEY, time timestamptz NOT NULL)")
            self.before = datetime.now(UTC)
            self.backup()
            for number in range(1, 6):
                cursor.execute("INSERT INTO readings VALUES (%s, clock_timestamp())", (number,))
                cursor.execute("SELECT clock_timestamp()")
                self.moments.append(cursor.fetchone()[0])  # type: ignore[index]
                if number == 3:
                    self.backup("incr")
        self.archive()

    def scratch(self, name: str) -> Scratch:
        """Return a scratch instance that is not there yet."""
        return Scratch(self.installation, self.base, name, free_port())


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """One for all tests; each has an instance of its own."""
    made = World()
    yield made
    made.remove()


def rows(scratch: Scratch) -> list[int]:
    """Return the rows of an instance."""
    with closing(scratch.server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT n FROM readings ORDER BY n")
        return [n for (n,) in cursor.fetchall()]


def test_a_time_brings_exactly_what_was_committed_by_then(world: World) -> None:
    scratch = world.scratch("time")
    verdict = scratch.make(parse_request(world.moments[3].isoformat(), None), timeout_s=300)
    assert verdict.reached, verdict
    assert rows(scratch) == [1, 2, 3, 4]
    assert scratch.remove()
    assert not scratch.directory.exists()
    assert not scratch.remove()


def test_a_time_after_the_last_transaction_says_how_far_it_got(world: World) -> None:
    scratch = world.scratch("late")
    target = world.moments[4] + timedelta(minutes=5)
    verdict = scratch.make(parse_request(target.isoformat(), None), timeout_s=300)
    assert not verdict.reached
    assert "was not reached" in verdict.message
    assert verdict.evidence["last_transaction"] in verdict.message
    assert not scratch.server.running()
    record = scratch.record()
    assert record is not None
    assert record["state"] == "failed"
    # The next run makes it anew, by itself: to the end this time.
    again = scratch.make(parse_request("end", None), timeout_s=300)
    assert again.reached, again
    assert rows(scratch) == [1, 2, 3, 4, 5]
    with pytest.raises(RestoreError, match="is there"):
        scratch.make(parse_request("end", None), timeout_s=300)
    scratch.server.stop()
    scratch.start()
    assert rows(scratch) == [1, 2, 3, 4, 5]


def test_a_time_before_the_backup_is_refused_and_a_backup_is_brought_as_it_was(world: World) -> None:
    scratch = world.scratch("label")
    with pytest.raises(RestoreError, match="before the oldest backup was complete"):
        scratch.make(parse_request(world.before.isoformat(), None), timeout_s=300)
    full, incremental = (backup.label for backup in world.installation.repository().backups)
    with pytest.raises(RestoreError, match=f"before backup {incremental} was complete"):
        scratch.make(parse_request(world.moments[1].isoformat(), incremental), timeout_s=300)
    assert not scratch.directory.exists()
    assert scratch.make(parse_request(None, incremental), timeout_s=300).reached
    assert rows(scratch) == [1, 2, 3]
    scratch.remove()
    assert scratch.make(parse_request(None, full), timeout_s=300).reached
    assert rows(scratch) == []


def test_the_data_are_proven_and_damage_is_found(world: World) -> None:
    scratch = world.scratch("proof")
    assert scratch.make(parse_request("end", None), timeout_s=300).reached
    proof = prove(scratch.server)
    assert proof.problems == []
    (table,) = proof.evidence["databases"]["postgres"]["tables"]
    assert table["name"] == "public.readings"
    assert table["rows"] == 5
    assert table["newest"].startswith(world.moments[4].strftime("%Y-%m-%d %H:%M:%S"))
    # One byte of an index. A query that reads the page stumbles over it, or else the check of all pages.
    with closing(scratch.server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_relation_filepath('readings_pkey')")
        path = scratch.server.data / cursor.fetchone()[0]  # type: ignore[index]
    scratch.server.stop()
    page = bytearray(path.read_bytes())
    page[8192 + 100 + 4000] ^= 0xFF
    path.write_bytes(page)
    scratch.start()
    damaged = prove(scratch.server)
    assert "invalid page" in str(damaged.problems) or "pg_checksums failed" in str(damaged.problems)
    assert scratch.server.running()


def test_an_hour_with_fewer_rows_than_are_on_record_is_a_problem(world: World) -> None:
    with closing(world.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE covered")
    tables = """
        CREATE SCHEMA flux;
        CREATE TABLE flux.mg_bess_readings (device_id uuid, time timestamptz, PRIMARY KEY (device_id, time));
        CREATE TABLE flux.mg_coverage_hourly (device_id uuid, hour timestamptz, rows bigint);
        INSERT INTO flux.mg_bess_readings
        SELECT '00000000-0000-0000-0000-000000000001',
               '2026-01-05T10:00Z'::timestamptz + n * interval '1 minute'
        FROM generate_series(0, 119) n;
        INSERT INTO flux.mg_coverage_hourly
        SELECT device_id, date_trunc('hour', time), count(*) FROM flux.mg_bess_readings GROUP BY 1, 2;
        -- One came late, which is right; five are gone, which is not.
        INSERT INTO flux.mg_bess_readings
        SELECT device_id, time + interval '1 second' FROM flux.mg_bess_readings ORDER BY time LIMIT 1;
        DELETE FROM flux.mg_bess_readings WHERE time >= '2026-01-05T11:55Z';
    """
    with closing(world.connect("covered")) as connection, connection.cursor() as cursor:
        cursor.execute(tables)
        assert contents.hours(cursor) == contents.Hours(
            2,
            120,
            1,
            "2026-01-05T11Z of 00000000-0000-0000-0000-000000000001 has 55 rows, 60 were counted",
        )
        cursor.execute(
            "CREATE SCHEMA ops; CREATE TABLE ops.retention (relation text, dropped_before timestamptz);"
            "INSERT INTO ops.retention VALUES ('flux.mg_bess_readings', '2026-01-06T00:00Z')"
        )
        assert contents.hours(cursor) == contents.Hours(0, 0, 0, None)
