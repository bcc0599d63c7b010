"""A backup of files, with a real restic: what counts as one, and what a failed one leaves alone."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from file_backup_world import World

from stationkeeper.backup.files import copies, repository
from stationkeeper.backup.files.settings import BackupError

FILES = '{kind="files"}'


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One host for all tests of this file, in their order: each run of restic costs a second of processor."""
    return World(tmp_path_factory.mktemp("world"))


def test_a_backup_is_saved_proven_and_told(world: World) -> None:
    result = world.run()
    assert result.succeeded, result.message
    assert [(one.name, one.files, one.compared) for one in result.sets] == [
        ("configuration", 5, 5),
        ("grafana", 1, 1),
    ]
    figures = world.figures()
    assert figures[f"last_run_success{FILES}"] == 1
    assert figures[f"last_success_timestamp_seconds{FILES}"] == result.began
    assert figures[f"verified_timestamp_seconds{FILES}"] >= result.began
    assert figures[f"size_bytes{FILES}"] == result.size_bytes > 0
    assert figures[f"repository_free_bytes{FILES}"] > 0
    # Copies of databases are nobody's to find.
    assert list(world.settings.staging.iterdir()) == []


def test_a_failed_backup_keeps_the_last_success_and_every_older_snapshot(world: World) -> None:
    """The guides prune by `find -mtime +7 -delete` whatever became of the dump before it."""
    before, kept = world.figures(), world.snapshots("configuration")
    moved = world.host / "etc.gone"
    (world.host / "etc").rename(moved)
    result = world.run()
    moved.rename(world.host / "etc")
    assert not result.succeeded
    assert f"{world.host}/etc is gone" in result.message
    after = world.figures()
    assert after[f"last_run_success{FILES}"] == 0
    for name in ("last_success_timestamp_seconds", "verified_timestamp_seconds", "size_bytes"):
        assert after[f"{name}{FILES}"] == before[f"{name}{FILES}"]
    assert world.snapshots("configuration") == kept


def test_an_unreadable_repository_is_found_though_its_files_exist(world: World) -> None:
    """The guides' verification asks whether the file exists; so does a damaged one."""
    before = world.figures()
    packs = [path for path in (world.repository / "data").rglob("*") if path.is_file()]
    content = {path: path.read_bytes() for path in packs}
    for path in packs:
        path.chmod(0o600)
        path.write_bytes(content[path][:-1] + bytes([content[path][-1] ^ 1]))
    assert all(path.exists() for path in packs)
    result = world.run()
    for path, right in content.items():
        path.write_bytes(right)
    assert not result.succeeded
    assert "restic" in result.message
    key = f"last_success_timestamp_seconds{FILES}"
    assert world.figures()[key] == before[key]


def test_sqlite_is_copied_in_one_state_while_it_is_written(world: World, tmp_path: Path) -> None:
    """Every transaction writes equal numbers into two rows: a copy in between would have half of one."""
    stop = threading.Event()

    def write() -> None:
        with closing(world.connect()) as connection:
            number = 0
            while not stop.is_set():
                number += 1
                with connection:
                    connection.execute("INSERT INTO pair VALUES (?, 1)", (number,))
                    connection.execute("INSERT INTO pair VALUES (?, -1)", (number,))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with closing(world.connect()) as connection:
            while not connection.execute("SELECT count(*) FROM pair").fetchone()[0]:
                pass
        totals = []
        for number in range(20):
            copy = tmp_path / f"{number}.db"
            copies.copy_sqlite(world.database, copy)
            totals.append(rows_of(copy))
        # The guides' copy: without what still stands in the write-ahead log it is no copy of this database.
        subprocess.run(["cp", world.database, tmp_path / "cp.db"], check=True)
    finally:
        stop.set()
        writer.join()
    assert [total for _, total in totals] == [0] * 20
    assert totals[-1][0] > 0
    assert rows_of(tmp_path / "cp.db")[0] < totals[-1][0]


def rows_of(path: Path) -> tuple[int, int]:
    """Return how many rows a copy has, and the sum that is zero where they are whole."""
    with closing(sqlite3.connect(path)) as connection:
        try:
            rows, total = connection.execute("SELECT count(*), coalesce(sum(b), 0) FROM pair").fetchone()
        except sqlite3.DatabaseError:
            return 0, 0
    return rows, total


def test_a_wrong_passphrase_and_a_lost_repository_are_refused(world: World, tmp_path: Path) -> None:
    assert repository.converge(world.settings, dry_run=False, restic=world.restic) is False
    wrong = tmp_path / "wrong"
    wrong.write_text("another passphrase\n")
    other = World.__new__(World)
    other.settings = replace(world.settings, passphrase_file=wrong)
    with pytest.raises(BackupError, match="secret_backup_files_passphrase"):
        repository.converge(other.settings, dry_run=False, restic=other.restic)
    other.settings = replace(world.settings, repository=str(tmp_path / "empty"))
    with pytest.raises(BackupError, match="its backups are gone"):
        repository.converge(other.settings, dry_run=False, restic=other.restic)


def test_the_next_good_run_forgets_what_was_never_proven(world: World) -> None:
    """One is left from the run that found a damaged repository, too."""
    world.restic.save([world.host / "etc"], [], ["set=configuration", "kind=files"])
    assert [one.verified for one in world.restic.snapshots() if one.set == "configuration"] == [
        True,
        False,
        False,
    ]
    result = world.run()
    assert result.succeeded, result.message
    # One of a day stays of each set, all of them proven.
    assert world.snapshots("configuration") == [result.sets[0].snapshot]
