"""Restores in place of the live cluster: proven before a client sees them, and nothing is deleted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from backup_world import BackupWorld
from module_runner import run_module

from free_port import free_port
from stationkeeper.restore.in_place import InPlace
from stationkeeper.restore.request import RestoreError, parse_request


@pytest.fixture(scope="module")
def world() -> Iterator[BackupWorld]:
    """A cluster with a backup and then ten rows."""
    made = BackupWorld()
    with closing(made.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE readings (n integer PRIMARY KEY, time timestamptz NOT NULL)")
        made.backup()
        for number in range(10):
            cursor.execute("INSERT INTO readings VALUES (%s, clock_timestamp())", (number,))
    made.archive()
    yield made
    made.remove()


def times(world: BackupWorld) -> list[datetime]:
    """Return the live rows' times."""
    with closing(world.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT time FROM readings ORDER BY time")
        return [time for (time,) in cursor.fetchall()]


def kept(world: BackupWorld) -> list[Path]:
    """Return the old directories beside the live one."""
    return sorted(world.cluster.data.parent.glob("data.*Z"))


def test_the_modules_restore_say_and_keep(world: BackupWorld, tmp_path: Path) -> None:
    installation = world.installation
    where = {
        "stanza": world.stanza,
        "programs": str(installation.programs),
        "data_directory": str(installation.data),
        "config_file": str(installation.configuration),
        "backrest_config": installation.backrest[0].removeprefix("--config="),
    }
    scratch = where | {
        "base": str(world.base),
        "port": free_port(),
        "recover_to": times(world)[4].isoformat(),
    }
    planned = run_module(tmp_path, "database_restore", scratch, check=True)
    assert planned["message"].startswith("would restore ")
    assert planned["changed"]
    assert not world.base.exists()
    in_place = run_module(tmp_path, "database_restore_in_place", where, check=True)
    assert in_place["message"].startswith("would restore the end of the archive from backup ")
    assert kept(world) == []
    made = run_module(tmp_path, "database_restore", scratch)
    assert made["changed"], made
    assert made["message"].startswith("reached ")
    assert made["data"]["amcheck"] == "every heap and index is sound"
    assert made["data"]["checksums"].startswith("Blocks scanned")
    assert made["problems"] == []
    again = run_module(tmp_path, "database_restore", scratch)
    assert not again["changed"]
    assert again["target"] == made["target"]
    other = run_module(tmp_path, "database_restore", scratch | {"recover_to": "end"})
    assert "is there, of " in other["msg"]
    rows = {"database": "postgres", "table": "public.readings", "restored": made["connection"]}
    rows |= {
        "from": "2026-01-01T00:00:00",
        "to": "2099-01-01T00:00:00Z",
        "socket": str(world.cluster.directory),
    }
    assert "with an offset" in run_module(tmp_path, "database_restore_rows", rows)["msg"]
    gone = run_module(tmp_path, "database_restore", scratch | {"state": "absent"})
    assert gone["changed"]
    assert list(world.base.glob("restore*")) == []


def test_the_target_becomes_the_live_cluster_and_the_old_directory_stays(world: BackupWorld) -> None:
    before, place = times(world), InPlace(world.installation)
    target = before[5]
    with pytest.raises(RestoreError, match="stop it first"):
        place.restore(parse_request(target.isoformat(), None), timeout_s=300)
    world.cluster.stop()

    # A target that cannot be reached: the old directory goes back, with its rows.
    late = parse_request((datetime.now(UTC) + timedelta(hours=1)).isoformat(), None)
    _, verdict, _ = place.restore(late, timeout_s=300)
    assert not verdict.reached
    assert place.undo() == world.cluster.data
    assert kept(world) == []
    world.cluster.start(wal_level="replica", archive_mode="on")
    assert times(world) == before
    world.cluster.stop()

    # Killed between the record and the end: the next run goes on with the same old directory.
    place._put_aside(late)
    (old,) = kept(world)
    directory, verdict, proof = place.restore(parse_request(target.isoformat(), None), timeout_s=300)
    assert verdict.reached, verdict
    assert proof.problems == []
    assert directory == old
    assert kept(world) == [old]
    place.settle()
    world.cluster.start(wal_level="replica", archive_mode="on")
    found = times(world)
    assert found == [time for time in before if time <= found[-1]]
    assert 5 <= len(found) <= 6
    with closing(world.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW recovery_target_time")
        assert cursor.fetchone() == ("",)
        cursor.execute("SELECT FROM pg_extension WHERE extname = 'amcheck'")
        assert cursor.rowcount == 0

    # The new timeline is archived from its first segment on, so that it can be restored to.
    with closing(world.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO readings VALUES (100, clock_timestamp())")
    world.archive()
    assert "00000002" in str(world.installation.repository().archived_to)
    archive = f"archive/{world.stanza}/{world.cluster.programs.parts[4]}-1"
    assert "00000002.history" in world.backrest("repo-ls", archive)
