"""Archives that are recorded, looked after and waited for by retention (migration 0009, plain PostgreSQL)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from archive_database import add_archive_tables
from backfill_world import START, World, make_world
from postgres_cluster import PostgresCluster

from stationkeeper.jobs.interface import JobError, JobSettings
from stationkeeper.jobs.work import archive
from stationkeeper.telemetry.archived import Archived, archive_days, days_to_archive
from stationkeeper.telemetry.backfill.archive import ArchiveSource
from stationkeeper.telemetry.backfill.manifest import NAME, read_manifest, write_manifest
from stationkeeper.telemetry.backfill.tables import read_tables
from stationkeeper.telemetry.source import Device, TelemetryError, connected

DAY = date(2026, 1, 5)
ROWS = 1440
RETENTION = (
    "SELECT relation, chunks_dropped, chunks_waiting, waiting_for FROM flux.apply_retention('90 days', true)"
)
REQUIRE = "SELECT flux.require_retention('90 days')"


class Archive(World):
    """Two days of two sites, and their archives."""

    def archive(self, root: Path, *days: date, site: str = "WLCE", **options: Any) -> Archived:
        """Archive as the operator of runbooks does."""
        with connected(self.target | {"user": "flux_operator"}) as connection:
            return archive_days(connection, root, site, days or [DAY], host="here", **options)

    def records(self) -> list[tuple[Any, ...]]:
        """Return the records, each with the last part of its location."""
        query = (
            "SELECT site, day, readings, rows, regexp_replace(location, '.*/', ''), problem IS NULL"
            " FROM flux.mg_archive_day ORDER BY 1, 2, 3, 5"
        )
        return self.on(self.target, query)

    def retain(self) -> list[tuple[Any, ...]]:
        """Apply retention as the timer does."""
        self.on(self.target, "GRANT flux_owner TO postgres")
        return self.on(self.target, RETENTION)


@pytest.fixture
def world(postgres_cluster: PostgresCluster) -> Iterator[Archive]:
    for made in make_world(postgres_cluster):
        one = Archive(made.target, made.source)
        add_archive_tables(one.target, timescale=True)
        for site in ("WLCE", "HMCE"):
            for kind in ("bess", "meter"):
                device = one.device(f"{site}-{kind}", kind=kind, cadence_s=60, site=site)
                one.rows(one.target, device, kind=kind, count=2 * ROWS, cadence_s=60)
        yield one


def test_retention_waits_for_every_site_and_for_as_many_rows(world: Archive, tmp_path: Path) -> None:
    waiting = "HMCE 2026-01-05 (1440 rows), WLCE 2026-01-05 (1440 rows)"
    nothing = [(f"flux.mg_{kind}_readings", 0, 2, waiting) for kind in ("bess", "meter")]
    assert world.retain() == nothing
    # One of the two sites is not enough.
    assert world.archive(tmp_path).recorded == 1
    assert [row[3] for row in world.retain()] == ["HMCE 2026-01-05 (1440 rows)"] * 2
    assert world.archive(tmp_path, site="HMCE").recorded == 1
    # A row that comes after the archive was made keeps the day.
    world.on(
        world.target,
        "INSERT INTO flux.mg_meter_readings (time, device_id) SELECT '2026-01-05T12:00:30.5Z', id"
        " FROM flux.mg_device_registry WHERE name = 'WLCE-meter'",
    )
    assert world.retain() == [
        ("flux.mg_bess_readings", 1, 1, "HMCE 2026-01-06 (1440 rows), WLCE 2026-01-06 (1440 rows)"),
        ("flux.mg_meter_readings", 0, 2, "WLCE 2026-01-05 (1441 rows)"),
    ]
    with pytest.raises(psycopg2.errors.RaiseException, match="are in no archive"):
        world.on(world.target, REQUIRE)
    # One table's day was dropped, the other's got a row: what is there is archived beside the first.
    done = world.archive(tmp_path)
    assert (done.written, done.recorded, done.problems) == (1, 1, [])
    assert world.records()[-1] == ("WLCE", DAY, "mg_meter_readings", ROWS + 1, "WLCE_2026-01-05_2", True)
    assert [row[1] for row in world.retain()] == [0, 1]
    for site in ("WLCE", "HMCE"):
        world.archive(tmp_path, DAY + timedelta(days=1), site=site)
    assert [row[1:3] for row in world.retain()] == [(1, 0), (1, 0)]
    world.on(world.target, REQUIRE)
    assert world.on(world.target, "SELECT count(*) FROM flux.mg_meter_readings") == [(0,)]
    # Days that were dropped are archived, not missing.
    assert world.archive(tmp_path).problems == []
    # All that was dropped can be had from the archives.
    source = ArchiveSource("cold", tmp_path)
    with connected(world.target) as connection, connection.cursor() as cursor:
        source.check(read_tables(cursor, "flux"))
        cursor.execute("SELECT id::text, type FROM flux.mg_device_registry WHERE site = 'WLCE' ORDER BY type")
        devices = [Device(id_, "", "WLCE", kind, "", 60) for id_, kind in cursor.fetchall()]
    found = [source.count(device, START, START + timedelta(days=2)) for device in devices]
    assert found == [2 * ROWS, 2 * ROWS + 1]


def test_the_old_call_drops_what_is_old(world: Archive) -> None:
    world.on(world.target, "GRANT flux_owner TO postgres")
    assert world.on(world.target, "SELECT * FROM flux.apply_retention('90 days')") == [
        ("flux.mg_bess_readings", 2),
        ("flux.mg_meter_readings", 2),
    ]
    assert world.on(world.target, "SELECT count(*) FROM ops.retention") == [(2,)]
    with pytest.raises(psycopg2.errors.RaiseException, match="at least one day"):
        world.on(world.target, "SELECT * FROM flux.apply_retention('1 hour', true)")


def test_rows_of_unknown_devices_are_kept_and_told(world: Archive, tmp_path: Path) -> None:
    world.on(world.target, "DELETE FROM flux.mg_bess_readings")
    world.on(
        world.target,
        "INSERT INTO flux.mg_bess_readings (time, device_id) VALUES (%s, gen_random_uuid())",
        START,
    )
    assert world.retain()[0] == ("flux.mg_bess_readings", 0, 1, "unregistered devices 2026-01-05 (1 rows)")
    settings = JobSettings("flux", world.target, tmp_path, tmp_path)
    with pytest.raises(JobError, match="2026-01-05 have rows of devices that the registry does not know"):
        archive.work(settings)


@pytest.mark.criterion("GR-9")
def test_a_recorded_archive_that_changed_or_is_gone_is_noticed_and_not_forgotten(
    world: Archive, tmp_path: Path
) -> None:
    assert world.archive(tmp_path, dry_run=True).recorded == 1
    assert world.records() == []
    assert list(tmp_path.iterdir()) == []
    world.archive(tmp_path)
    second = world.archive(tmp_path)
    assert (second.changed, second.verified, second.problems) == (False, 1, [])
    directory = tmp_path / "WLCE_2026-01-05"

    # A manifest that is right in itself, and not the recorded one.
    kept = (directory / NAME).read_bytes()
    manifest = read_manifest(directory)
    write_manifest(replace(manifest, files=manifest.files[:1]))
    done = world.archive(tmp_path, dry_run=True)
    assert "is another archive than the recorded one" in done.problems[0]
    assert all(row[-1] for row in world.records())
    done = world.archive(tmp_path)
    assert "is another archive than the recorded one" in done.problems[0]
    # The rows are still there and get a healthy archive; the record of the bad one does not count.
    names = [(row[4], row[5]) for row in world.records()]
    assert names == [("WLCE_2026-01-05", False), ("WLCE_2026-01-05_2", True)] * 2
    assert world.archive(tmp_path).problems == []

    # It comes back from a copy.
    (directory / NAME).write_bytes(kept)
    assert (world.archive(tmp_path).verified, all(row[-1] for row in world.records())) == (2, True)

    # A file that is gone.
    shutil.rmtree(tmp_path / "WLCE_2026-01-05_2")
    next(directory.rglob("*.parquet")).unlink()
    done = world.archive(tmp_path)
    assert len(done.problems) == 2
    assert "is gone; bring it back from a copy" in done.problems[1]
    assert "cannot be read: No such file" in done.problems[0]
    with (
        closing(psycopg2.connect(**_dsn(world))) as connection,
        connection.cursor() as cursor,
        pytest.raises(psycopg2.errors.RaiseException, match="cannot change"),
    ):
        cursor.execute("UPDATE flux.mg_archive_day SET hash = 'x'")


def test_other_values_are_refused_and_do_not_keep_other_days_back(world: Archive, tmp_path: Path) -> None:
    world.archive(tmp_path)
    world.on(world.target, "UPDATE flux.mg_bess_readings SET power_kw = 1 WHERE seq = 100")
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    done = world.archive(tmp_path, DAY, DAY + timedelta(days=1), tomorrow)
    assert (done.written, len(done.problems)) == (1, 2)
    assert "holds an archive of other rows" in done.problems[0]
    assert "is not over" in done.problems[1]
    with pytest.raises(TelemetryError, match="no device of site XX"):
        world.archive(tmp_path, site="XX")


def test_the_job_makes_up_for_days_that_it_missed(world: Archive, tmp_path: Path) -> None:
    settings = JobSettings("flux", world.target | {"user": "flux_jobs"}, tmp_path, tmp_path)
    world.on(world.target, "ALTER ROLE flux_jobs LOGIN PASSWORD %s", world.target["password"])
    world.on(world.target, "GRANT USAGE ON SCHEMA flux, ops TO flux_jobs")
    world.on(world.target, "GRANT SELECT ON ALL TABLES IN SCHEMA flux, ops TO flux_jobs")
    # Both days lie long before the week that the job looks at.
    done = archive.work(settings)
    assert (done.records, done.evidence["recorded"]) == (8 * ROWS, {"HMCE": 2, "WLCE": 2})
    assert {sample.labels["site"]: sample.value for sample in done.metrics} == {
        "HMCE": 4 * ROWS,
        "WLCE": 4 * ROWS,
    }
    assert [row[1:3] for row in world.retain()] == [(2, 0), (2, 0)]
    again = archive.work(settings)
    assert (again.evidence["recorded"], again.evidence["verified"]) == (
        {"HMCE": 0, "WLCE": 0},
        {"HMCE": 0, "WLCE": 0},
    )
    # A row that comes after the day was dropped is archived beside the others, and dropped, too.
    world.on(
        world.target,
        "INSERT INTO flux.mg_bess_readings (time, device_id) SELECT '2026-01-05T12:00:30.5Z', id"
        " FROM flux.mg_device_registry WHERE name = 'WLCE-bess'",
    )
    assert world.retain()[0][1:3] == (0, 1)
    assert archive.work(settings).evidence["recorded"] == {"HMCE": 0, "WLCE": 1}
    assert world.retain()[0][1:3] == (1, 0)
    # As many as were archived, but others: the number alone proves nothing then.
    world.on(
        world.target,
        "INSERT INTO flux.mg_bess_readings (time, device_id) SELECT '2026-01-05T13:00:30.5Z', id"
        " FROM flux.mg_device_registry WHERE name = 'WLCE-bess'",
    )
    assert world.retain()[0][1:3] == (0, 1)
    assert archive.work(settings).evidence["recorded"] == {"HMCE": 0, "WLCE": 1}
    assert world.records()[-1][3:] == (ROWS, "WLCE_2026-01-06", True)
    assert world.retain()[0][1:3] == (1, 0)
    # The very same row once more: its archive is read back again.
    world.on(
        world.target,
        "INSERT INTO flux.mg_bess_readings (time, device_id) SELECT '2026-01-05T13:00:30.5Z', id"
        " FROM flux.mg_device_registry WHERE name = 'WLCE-bess'",
    )
    assert world.retain()[0][1:3] == (0, 1)
    assert archive.work(settings).evidence["written"] == {"HMCE": 0, "WLCE": 0}
    assert world.retain()[0][1:3] == (1, 0)
    with connected(world.target) as connection:
        assert days_to_archive(connection, last=DAY, days=1).sites == {"HMCE": [DAY], "WLCE": [DAY]}
    shutil.rmtree(tmp_path / "WLCE_2026-01-05")
    world.on(world.target, "DELETE FROM ops.retention")
    with pytest.raises(JobError, match=r"WLCE 2026-01-05 was recorded, but .* is gone"):
        archive.work(settings)


def _dsn(world: Archive) -> dict[str, Any]:
    target = world.target
    return {
        "host": target["hosts"][0],
        "port": target["port"],
        "dbname": target["name"],
        "user": target["user"],
        "password": target["password"],
    }
