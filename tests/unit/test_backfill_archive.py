"""Archives: rows come back as they were, and whatever was changed since is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from backfill_world import START, World, make_world
from postgres_cluster import PostgresCluster
from pyarrow import parquet

from stationkeeper.database.connection import connect
from stationkeeper.telemetry.backfill.archive import ArchiveSource
from stationkeeper.telemetry.backfill.export import Export, export, read_back
from stationkeeper.telemetry.backfill.manifest import read_manifest
from stationkeeper.telemetry.source import TelemetryError

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
FORMATS = ("parquet", "csv")


@pytest.fixture
def world(postgres_cluster: PostgresCluster) -> Iterator[World]:
    yield from make_world(postgres_cluster)


def archived(world: World, directory: Path, format_: str = "parquet", **options: object) -> Export:
    """Archive two days of the source database."""
    with closing(connect(world.source | {"user": "flux_reader"})) as connection:
        return export(connection, directory, START, START + 2 * DAY, format=format_, **options)  # type: ignore[arg-type]


def two_devices(world: World) -> tuple[str, str]:
    """A battery over midnight at one row in ten seconds, and a meter at one a minute."""
    battery, meter = world.device("A", cadence_s=10), world.device("M", kind="meter", cadence_s=60)
    world.rows(world.source, battery, count=10_000, cadence_s=10)
    world.rows(world.source, meter, count=1000, kind="meter", cadence_s=60)
    return battery, meter


@pytest.mark.parametrize("format_", FORMATS)
def test_rows_come_back_as_they_were(world: World, tmp_path: Path, format_: str) -> None:
    battery, meter = two_devices(world)
    done = archived(world, tmp_path / "a", format_)
    assert (done.rows, done.devices, done.files, done.changed) == (11_000, 2, 3, True)
    # Gaps that begin and end within an hour: the archive proves whole hours, the target takes a part of them.
    world.gap(battery, START - timedelta(seconds=10), START + timedelta(seconds=100_000), 10_000)
    world.gap(meter, START + timedelta(seconds=1), START + timedelta(minutes=1000), 999)
    outcome = world.recover(ArchiveSource("archive", tmp_path / "a"))
    assert (outcome.rows_new, outcome.conflicts, outcome.entries) == (10_999, 0, {"recovered": 2})
    assert world.checksum(world.target) == world.checksum(world.source)
    query = "DELETE FROM flux.mg_meter_readings WHERE time = %s"
    world.on(world.source, query, START)
    assert world.checksum(world.target, "meter") == world.checksum(world.source, "meter")


@pytest.mark.parametrize("format_", FORMATS)
def test_an_archive_is_read_back_by_a_user_who_may_only_read(
    world: World, tmp_path: Path, format_: str
) -> None:
    two_devices(world)
    archived(world, tmp_path / "a", format_)
    with closing(connect(world.source | {"user": "flux_reader"})) as connection:
        assert read_back(connection, tmp_path / "a") == 11_000


def test_a_second_export_changes_nothing_and_other_rows_are_not_overwritten(
    world: World, tmp_path: Path
) -> None:
    two_devices(world)
    archived(world, tmp_path / "a")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    assert archived(world, tmp_path / "a").changed is False
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    world.on(world.source, "DELETE FROM flux.mg_bess_readings WHERE seq = 5")
    with pytest.raises(TelemetryError, match=r"holds an archive of other rows .* It is not overwritten"):
        archived(world, tmp_path / "a")


@pytest.mark.criterion("GR-9")
def test_a_dry_run_counts_and_writes_no_file(world: World, tmp_path: Path) -> None:
    two_devices(world)
    done = archived(world, tmp_path / "a", dry_run=True)
    assert (done.rows, done.files, done.changed) == (11_000, 3, True)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_did_not_end_is_no_archive_and_can_be_done_again(world: World, tmp_path: Path) -> None:
    two_devices(world)
    archived(world, tmp_path / "a")
    (tmp_path / "a/manifest.json").unlink()
    with pytest.raises(TelemetryError, match=r"holds no archive: manifest\.json is not there"):
        read_manifest(tmp_path / "a")
    assert archived(world, tmp_path / "a").changed is True


def tamper_manifest(root: Path) -> None:
    path = root / "manifest.json"
    path.write_text(path.read_text().replace('"rows": 8640', '"rows": 8639'))


def tamper_content(root: Path) -> None:
    path = next(root.rglob("2026-01-05.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_off(root: Path) -> None:
    path = next(root.rglob("2026-01-05.parquet"))
    path.write_bytes(path.read_bytes()[:-1])


def lose_file(root: Path) -> None:
    next(root.rglob("2026-01-05.parquet")).unlink()


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (tamper_manifest, "is not as it was written: its checksum is wrong"),
        (tamper_content, "is not as it was archived: its SHA-256 is wrong"),
        (cut_off, "bytes instead of"),
        (lose_file, "cannot be read: No such file"),
    ],
)
def test_an_archive_that_was_changed_is_refused(world: World, tmp_path: Path, tamper, message: str) -> None:  # type: ignore[no-untyped-def]
    battery, _ = two_devices(world)
    archived(world, tmp_path / "a")
    tamper(tmp_path / "a")
    world.gap(battery, START, START + DAY, 8640)
    source = ArchiveSource("archive", tmp_path / "a")
    assert message in refusal(world, source)
    assert world.checksum(world.target)[0] == 0
    assert world.states() == ["open"]
    assert world.on(world.target, "SELECT count(*) FROM flux.mg_backfill_batch") == [(0,)]


def refusal(world: World, source: ArchiveSource) -> str:
    """Say why a source was not used: nothing was claimed, or it was given up while it was read."""
    try:
        return world.recover(source).failed_sources[source.name]
    except TelemetryError as error:
        return str(error)


def resign(root: Path) -> None:
    """Make the manifest's checksums fit again, as somebody would who meddles with care."""
    import hashlib

    path = root / "manifest.json"
    document = json.loads(path.read_text())
    for file in document["files"]:
        data = (root / file["path"]).read_bytes()
        file |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    del document["checksum"]
    document["checksum"] = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(document))


def test_a_changed_value_is_found_by_the_hour_even_when_all_files_have_fitting_checksums(
    world: World, tmp_path: Path
) -> None:
    battery, _ = two_devices(world)
    archived(world, tmp_path / "a", "csv")
    path = next((tmp_path / "a").rglob("2026-01-05.csv"))
    lines = path.read_text().splitlines(keepends=True)
    lines[100] = lines[100].replace(",230.", ",231.", 1)
    path.write_text("".join(lines))
    resign(tmp_path / "a")
    world.gap(battery, START, START + DAY, 8640)
    told = refusal(world, ArchiveSource("archive", tmp_path / "a"))
    assert told.startswith("the hour 2026-01-05T00:00:00Z has 360 rows ")
    assert world.checksum(world.target)[0] == 0
    assert world.states() == ["open"]


@pytest.mark.criterion("GR-10")
def test_times_without_a_zone_are_refused_in_both_formats(world: World, tmp_path: Path) -> None:
    battery, _ = two_devices(world)
    world.gap(battery, START, START + DAY, 8640)
    archived(world, tmp_path / "csv", "csv")
    path = next((tmp_path / "csv").rglob("2026-01-05.csv"))
    path.write_text(path.read_text().replace("+00,", ",", 1))
    archived(world, tmp_path / "parquet")
    other = next((tmp_path / "parquet").rglob("2026-01-05.parquet"))
    table = parquet.read_table(other)
    place = table.schema.names.index("time")
    table = table.set_column(place, "time", table.column("time").cast(pa.timestamp("us")))
    parquet.write_table(table, other)
    for name, message in (
        ("csv", "expected a zone offset"),
        ("parquet", "column time is of type timestamp[us]"),
    ):
        resign(tmp_path / name)
        assert message in refusal(world, ArchiveSource(name, tmp_path / name))
    assert world.checksum(world.target)[0] == 0


def test_of_two_archives_of_an_hour_the_fuller_one_counts(world: World, tmp_path: Path) -> None:
    battery, _ = two_devices(world)
    world.gap(battery, START - timedelta(seconds=10), START + timedelta(seconds=100_000), 10_000)
    archived(world, tmp_path / "2026-01-07")
    world.on(world.source, "DELETE FROM flux.mg_bess_readings WHERE seq BETWEEN 400 AND 500")
    archived(world, tmp_path / "2026-01-08")
    source = ArchiveSource("archives", tmp_path)
    assert world.recover(source).rows_new == 10_000


def test_without_arrow_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        TelemetryError, match="archives need the package pyarrow on the control node: make setup"
    ):
        ArchiveSource("cold", tmp_path).check({})


@pytest.mark.parametrize("format_", FORMATS)
def test_an_archive_outlives_a_new_column_that_can_be_null(
    world: World, tmp_path: Path, format_: str
) -> None:
    battery, _ = two_devices(world)
    archived(world, tmp_path / "a", format_)
    for settings in (world.source, world.target):
        world.on(settings, "ALTER TABLE flux.mg_bess_readings ADD COLUMN aux_power_kw double precision")
    assert archived(world, tmp_path / "a", format_).changed is False
    with closing(connect(world.source | {"user": "flux_reader"})) as connection:
        assert read_back(connection, tmp_path / "a") == 11_000
    world.gap(battery, START - timedelta(seconds=10), START + timedelta(seconds=100_000), 10_000)
    outcome = world.recover(ArchiveSource("archive", tmp_path / "a"))
    assert (outcome.rows_new, outcome.conflicts, outcome.entries) == (10_000, 0, {"recovered": 1})
    assert world.checksum(world.target) == world.checksum(world.source)


def test_a_new_column_that_is_never_null_refuses_older_archives(world: World, tmp_path: Path) -> None:
    two_devices(world)
    archived(world, tmp_path / "a")
    for settings in (world.source, world.target):
        world.on(settings, "ALTER TABLE flux.mg_bess_readings ADD COLUMN phase integer NOT NULL DEFAULT 1")
    with pytest.raises(TelemetryError, match="phase is not there"):
        archived(world, tmp_path / "a")
