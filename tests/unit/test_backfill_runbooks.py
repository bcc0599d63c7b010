"""The runbooks that recover, export and archive telemetry, run by Ansible on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from archive_database import add_archive_tables
from backfill_world import START, World, make_world
from database_logins import database_logins
from local_project import LocalProject
from postgres_cluster import PostgresCluster

from stationkeeper.telemetry.backfill.manifest import read_manifest

HOUR = timedelta(hours=1)
WINDOW = {"window_start": "2026-01-05T00:00:00Z", "window_end": "2026-01-05T10:00:00Z"}


class Project(LocalProject):
    """Two stations of one database, and a second database to recover from."""

    def __init__(self, path: Path, world: World, **more: Any) -> None:
        target = world.target
        password = target["password"]
        variables = {
            "stationkeeper_system": "test",
            "stationkeeper_state": str(path / "state"),
            **database_logins({key: target[key] for key in ("hosts", "port", "name")}, password),
            "telemetry_recovery_sources": [
                {"name": "second", "kind": "postgresql", "database": world.source | {"user": "flux_reader"}}
            ],
            **more,
        }
        stations = {"wlce": {"station_site": "WLCE"}, "hmce": {"station_site": "HMCE"}}
        super().__init__(path, variables, {"stations": stations})


@pytest.fixture
def world(postgres_cluster: PostgresCluster) -> Iterator[World]:
    for one in make_world(postgres_cluster):
        add_archive_tables(one.target)
        for site in ("WLCE", "HMCE"):
            device = one.device(f"{site}-BESS-01", cadence_s=60, site=site)
            one.rows(one.source, device, count=600, cadence_s=60)
            one.rows(one.target, device, count=200 if site == "WLCE" else 600, cadence_s=60)
        yield one


def everything(world: World, project: LocalProject) -> list[Any]:
    """Return what a check must leave as it is."""
    tables = ("bess_readings", "gap_ledger", "backfill_batch", "backfill_conflict", "coverage_state")
    queries = [
        f"SELECT count(*), bit_xor(hashtextextended(r::text, 0)) FROM flux.mg_{table} r" for table in tables
    ]
    # The audit's own record is made in check mode too.
    files = [path.relative_to(project.path / "state") for path in (project.path / "state").rglob("*")]
    archives = sorted(str(path) for path in files if path.parts[0] != "audit")
    return [world.on(world.target, query) for query in queries] + [archives]


@pytest.mark.criterion("GR-9")
def test_check_changes_nothing_the_run_recovers_and_the_next_has_nothing_to_do(
    world: World, tmp_path: Path
) -> None:
    project = Project(tmp_path, world)
    before = everything(world, project)
    assert project.run("telemetry_gap_recover", "--check", target="all", **WINDOW) == 0, project.output
    assert "about 400 rows missing; second 400" in project.output
    assert everything(world, project) == before
    assert project.run("telemetry_gap_recover", target="all", reason="test", **WINDOW) == 0, project.output
    assert "400 rows recovered in 1 batches" in project.output
    assert "expected 1200, present 800, recovered 400, explained 0, open 0" in project.output
    assert world.checksum(world.target) == world.checksum(world.source)
    assert project.run("telemetry_gap_recover", target="all", reason="test", **WINDOW) == 0, project.output
    assert "0 rows recovered" in project.output
    assert "2 intended, 2 ok" in project.output
    assert world.target["password"] not in project.output


@pytest.mark.criterion("GR-12")
def test_what_nobody_has_fails_the_run_until_it_is_given_up_with_a_reason(
    world: World, tmp_path: Path
) -> None:
    world.on(world.source, "DELETE FROM flux.mg_bess_readings WHERE seq BETWEEN 300 AND 399")
    project = Project(tmp_path, world)
    assert project.run("telemetry_gap_recover", target="all", reason="test", **WINDOW) != 0
    assert "2 intended, 1 changed, 1 failed" in project.output
    assert "about 100 of 600 rows missing in 1 gap" in project.output
    arguments = {"target": "all", "reason": "the card was stolen", "give_up": True, **WINDOW}
    assert project.run("telemetry_gap_recover", **arguments) == 0, project.output
    assert "recovered 300, explained 100, open 0" in project.output
    reasons = world.on(world.target, "SELECT reason FROM flux.mg_gap_ledger WHERE state = 'unrecoverable'")
    assert reasons == [("the card was stolen: no source has these rows (second)",)]


def test_without_a_source_it_says_what_to_do(world: World, tmp_path: Path) -> None:
    project = Project(tmp_path, world, telemetry_recovery_sources=[])
    assert project.run("telemetry_gap_recover", target="all", reason="test", **WINDOW) != 0
    assert (
        "There is nowhere to recover rows from: name sources in telemetry_recovery_sources" in project.output
    )


def test_an_export_is_written_read_back_and_recovered_from(world: World, tmp_path: Path) -> None:
    project = Project(tmp_path, world, telemetry_recovery_sources=[])
    directory = tmp_path / "state/archive/telemetry/export"
    arguments = {"directory": str(directory), "format": "csv", **WINDOW}
    assert project.run("telemetry_export", "--check", **arguments) == 0, project.output
    assert "800 rows in 2 files of all targets would be written" in project.output
    assert not directory.exists()
    assert project.run("telemetry_export", **arguments) == 0, project.output
    assert (read_manifest(directory).rows, read_manifest(directory).format) == (800, "csv")
    kept = world.checksum(world.target)
    world.on(world.target, "DELETE FROM flux.mg_bess_readings WHERE seq BETWEEN 100 AND 150")
    window = WINDOW | {"window_end": "2026-01-05T03:00:00Z"}
    assert project.run("telemetry_gap_recover", target="all", reason="test", **window) == 0, project.output
    assert world.checksum(world.target) == kept


def test_whole_days_are_archived_once(world: World, tmp_path: Path) -> None:
    project = Project(tmp_path, world)
    ago = (datetime.now(UTC) - START).days
    # A day more than is needed, should midnight pass while this runs.
    arguments = {"older_than_days": ago - 3, "days": 4}
    assert project.run("telemetry_archive", "--check", **arguments) == 0, project.output
    root = tmp_path / "state/archive/telemetry"
    assert "200 rows of 4 days, 1 days would be archived" in project.output
    assert not root.exists()
    assert project.run("telemetry_archive", **arguments) == 0, project.output
    assert sorted(path.name for path in root.iterdir()) == ["HMCE_2026-01-05", "WLCE_2026-01-05"]
    recorded = "SELECT site, day::text, readings, rows, problem FROM flux.mg_archive_day ORDER BY site"
    assert world.on(world.target, recorded) == [
        ("HMCE", "2026-01-05", "mg_bess_readings", 600, None),
        ("WLCE", "2026-01-05", "mg_bess_readings", 200, None),
    ]
    assert read_manifest(root / "HMCE_2026-01-05").rows == 600
    assert project.run("telemetry_archive", **arguments) == 0, project.output
    assert "200 rows of 4 days, 0 days archived now, 0 recorded, 1 archives as recorded" in project.output
    assert not project.changed
    world.on(world.target, "DELETE FROM flux.mg_bess_readings WHERE seq = 10")
    assert project.run("telemetry_archive", **arguments) != 0
    assert "holds an archive of other rows" in project.output
