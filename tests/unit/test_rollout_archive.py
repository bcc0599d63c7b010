"""Backups of a station's configuration: whole or refused."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from stationkeeper.rollout import archive
from stationkeeper.rollout.archive import ArchiveError, Backup

BACKUP = Backup(
    {"station": "wlce", "run_id": "r"},
    {"config.yaml": "site: WLCE\n", "override.yaml": "", "profiles/own.yaml": "name: ä\n"},
    {"latch/emergency_stop.json": "{}"},
)


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    path, written = archive.save(tmp_path, BACKUP, "20261121T080000Z", 3)
    assert written
    assert archive.load(path) == BACKUP
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    done = subprocess.run(
        ["sha256sum", "--check", f"{path.name}.sha256"], cwd=path.parent, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_equal_content_is_not_saved_again(tmp_path: Path) -> None:
    first, _ = archive.save(tmp_path, BACKUP, "20261121T080000Z", 3)
    other_run = Backup({**BACKUP.about, "run_id": "later"}, BACKUP.files, BACKUP.evidence)
    assert archive.save(tmp_path, other_run, "20261121T090000Z", 3) == (first, False)
    changed = Backup(BACKUP.about, {**BACKUP.files, "override.yaml": "a: 1\n"}, BACKUP.evidence)
    assert archive.save(tmp_path, changed, "20261121T090000Z", 3)[1] is True


def test_a_damaged_newest_archive_is_no_reason_to_save_nothing(tmp_path: Path) -> None:
    first, _ = archive.save(tmp_path, BACKUP, "20261121T080000Z", 3)
    first.write_bytes(b"rubbish")
    path, written = archive.save(tmp_path, BACKUP, "20261121T090000Z", 3)
    assert written
    assert archive.load(path) == BACKUP


def test_old_archives_go_with_their_checksums(tmp_path: Path) -> None:
    for hour in range(5):
        backup = Backup(BACKUP.about, {"config.yaml": f"hour: {hour}\n"}, {})
        archive.save(tmp_path, backup, f"20261121T0{hour}0000Z", 2)
    assert len(list((tmp_path / "wlce").iterdir())) == 4
    newest = archive.newest(tmp_path, "wlce")
    assert newest is not None
    assert archive.load(newest).files == {"config.yaml": "hour: 4\n"}


def test_a_station_without_backup_has_none(tmp_path: Path) -> None:
    assert archive.newest(tmp_path, "hmce") is None


def test_a_changed_archive_is_refused(tmp_path: Path) -> None:
    path, _ = archive.save(tmp_path, BACKUP, "20261121T080000Z", 3)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="SHA-256 differs"):
        archive.load(path)


def test_an_archive_without_checksum_is_refused(tmp_path: Path) -> None:
    path, _ = archive.save(tmp_path, BACKUP, "20261121T080000Z", 3)
    path.with_name(f"{path.name}.sha256").unlink()
    with pytest.raises(ArchiveError, match="sha256"):
        archive.load(path)


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_what_is_no_backup_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(content)
    path.with_name("x.tar.gz.sha256").write_text(hashlib.sha256(content).hexdigest() + "  x.tar.gz\n")
    with pytest.raises(ArchiveError, match="no backup"):
        archive.load(path)
