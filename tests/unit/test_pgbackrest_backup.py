"""Backups with a real pgBackRest and a real PostgreSQL: each fault is found before the backup is needed.

Beside each stands what pgBackRest's own command says of it, which is what a script would have believed.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pgbackrest_rig import STANZA, PgBackRestRig
from small_disk import fill, mounted

from stationkeeper.backup import record
from stationkeeper.backup.command import main
from stationkeeper.backup.diagnosis import diagnose
from stationkeeper.backup.expiry import plan, refusal
from stationkeeper.backup.judgement import judge
from stationkeeper.backup.look import look
from stationkeeper.backup.run import back_up, verify_repository, watch
from stationkeeper.backup.tool import BackupError

SUCCESS = 'stationkeeper_backup_last_success_timestamp_seconds{kind="database_full"}'
RUN = 'stationkeeper_backup_last_run_success{kind="database_%s"}'
FOUND = 'stationkeeper_backup_verification_problems{repository="1"}'
MISSING = 'stationkeeper_backup_wal_missing_segments{repository="1"}'
OK = 'stationkeeper_backup_repository_ok{repository="1"}'


@pytest.fixture(scope="module")
def rig() -> Iterator[PgBackRestRig]:
    """One repository with a full backup; each test leaves it whole."""
    made = PgBackRestRig()
    try:
        outcome = back_up(made.settings, "full")
        assert outcome.succeeded, outcome.message
        yield made
    finally:
        made.remove()


def problems(rig: PgBackRestRig) -> list[str]:
    settings, now = rig.settings, time.time()
    # Everything that is there has had time to arrive.
    return judge(
        look(settings.tool, now + 3600), record.load(settings.record), settings.objectives, now
    ).problems


def refused(rig: PgBackRestRig, label: str = "") -> str:
    settings = rig.settings
    backups = look(settings.tool, time.time()).content.backups
    return refusal(plan(settings.tool, 1, label), backups, record.load(settings.record)) or ""


def flip(file: Path) -> bytes:
    """Damage a file in its middle, and return what it was."""
    whole = file.read_bytes()
    middle = len(whole) // 2
    damaged = bytes(byte ^ 0xFF for byte in whole[middle : middle + 16])
    file.write_bytes(whole[:middle] + damaged + whole[middle + 16 :])
    return whole


def newest(rig: PgBackRestRig) -> Path:
    return sorted((rig.repository / "backup" / STANZA).glob("2*"))[-1]


def test_a_backup_is_a_success_only_after_its_verification(rig: PgBackRestRig) -> None:
    settings = rig.settings
    label = newest(rig).name
    run = record.load(settings.record).runs["database_full"]
    assert run["succeeded"]
    assert run["message"].startswith(f"{label} (full, ")
    assert " and verified; " in run["message"]
    figures = rig.figures()
    assert figures[RUN % "full"] == 1
    assert figures[FOUND] == 0
    assert figures['stationkeeper_backup_verified_timestamp_seconds{kind="database_full"}'] > figures[SUCCESS]
    assert problems(rig) == []
    (backup,) = look(settings.tool, time.time()).content.backups
    assert record.load(settings.record).verified_at(backup)
    watch(settings)
    assert rig.figures()[OK] == 1
    assert rig.figures()[MISSING] == 0


def test_flipped_bytes_in_a_backup_are_found_though_verify_ends_with_0(rig: PgBackRestRig) -> None:
    label = newest(rig).name
    file = max((newest(rig) / "bundle").iterdir(), key=lambda path: path.stat().st_size)
    whole = flip(file)
    try:
        # What a script would have looked at.
        assert rig.pgbackrest("verify", check=False).returncode == 0
        found = verify_repository(rig.settings, 1)
        assert {one.subject for one in found} == {label}
        # Some versions name the bundle, some the file in it.
        assert any(f"invalid checksum {label}/" in one.message for one in found)
        assert rig.figures()[FOUND] >= 1
        assert any(f"invalid checksum {label}/" in said for said in problems(rig))
        assert any("there is no verified full backup" in said for said in problems(rig))
        # A differential backup needs the damaged one, so it is no success, and nothing is pruned.
        before = rig.figures()[SUCCESS]
        outcome = back_up(rig.settings, "diff")
        assert not outcome.succeeded
        assert "is made, and is not good" in outcome.message
        assert rig.figures()[RUN % "diff"] == 0
        assert rig.figures()[SUCCESS] == before
        assert newest(rig).name.endswith("D")
        assert "is not verified" in refused(rig)
    finally:
        file.write_bytes(whole)
    assert verify_repository(rig.settings, 1) == []
    assert back_up(rig.settings, "diff").succeeded
    assert rig.figures()[RUN % "diff"] == 1


def test_wal_that_is_missing_is_found_though_verify_calls_it_ok(rig: PgBackRestRig) -> None:
    for _ in range(3):
        rig.write()
    rig.pgbackrest("check")
    needed = look(rig.settings.tool, time.time()).content.backups[0].wal_last
    between = rig.segments()[-2]
    own = next(path for path in rig.segments() if path.name.startswith(needed))
    for lost, words in ((between, "no moment between"), (own, "cannot be restored")):
        lost.rename(rig.directory / lost.name)
        try:
            said = rig.pgbackrest("verify", "--output=text", "--verbose").stdout
            assert "missing: 0" in said
            assert "status: invalid" not in said
            found = [text for text in problems(rig) if f"WAL {lost.name[:24]} is missing: " in text]
            assert len(found) == 1, problems(rig)
            assert words in found[0]
            watched = watch(rig.settings)
            assert watched.gaps[1] == [] if lost is between else rig.figures()[MISSING] == 1
        finally:
            (rig.directory / lost.name).rename(lost)
    assert problems(rig) == []


def test_a_new_primary_goes_on_in_the_archive_and_its_history_is_needed(rig: PgBackRestRig) -> None:
    rig.promote()
    rig.write()
    rig.pgbackrest("check")
    assert problems(rig) == []
    assert back_up(rig.settings, "diff").succeeded
    (history,) = rig.repository.glob(f"archive/{STANZA}/*/00000002.history")
    kept = history.rename(rig.directory / history.name)
    try:
        assert problems(rig) == ["WAL 00000002.history is missing: timeline 2 cannot be reached"]
    finally:
        kept.rename(history)
    assert problems(rig) == []


def test_a_wrong_passphrase_is_found_though_verify_ends_with_0(rig: PgBackRestRig) -> None:
    rig.configure(repo1_cipher_pass="incorrect horse battery staple")
    try:
        assert rig.pgbackrest("verify", check=False).returncode == 0
        with pytest.raises(BackupError, match="repository 1 cannot be read"):
            verify_repository(rig.settings, 1)
        watch(rig.settings)
        assert rig.figures()[OK] == 0
        assert any("repository 1 cannot be read" in said for said in problems(rig))
        answers = {one.name: one for one in diagnose(rig.settings, 1)}
        assert not answers["repository 1"].good
        assert not answers["archiving"].good
        assert "incorrect horse" not in str(answers)
        outcome = back_up(rig.settings, "full")
        assert not outcome.succeeded
    finally:
        rig.configure()
    assert all(one.good for one in diagnose(rig.settings, 10) if not one.name.startswith(("log", "last run")))


def test_somebody_who_stopped_pgbackrest_is_found(rig: PgBackRestRig) -> None:
    rig.configure(lock_path="/tmp/pgbackrest")
    stop = Path("/tmp/pgbackrest") / f"{STANZA}.stop"
    try:
        rig.pgbackrest("stop")
        answers = {one.name: one for one in diagnose(rig.settings, 1)}
        assert answers["stop file"].message.endswith(str(stop))
        assert answers["stop file"].mend == "start"
    finally:
        rig.pgbackrest("start", check=False)
        rig.configure()


def test_the_status_command_fails_where_something_is_wrong(
    rig: PgBackRestRig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--settings", str(tmp_path / "none.json"), "status"]) == 1
    assert "converge this host with playbooks/site.yml" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, which needs root")
def test_a_full_disk_fails_the_run_keeps_the_last_success_and_prunes_nothing(rig: PgBackRestRig) -> None:
    with mounted("40m") as disk:
        rig.own(disk)
        shutil.copytree(rig.repository, disk, dirs_exist_ok=True)
        for path in disk.rglob("*"):
            rig.own(path)
        rig.configure(repo1_path=str(disk), archive_timeout="2")
        try:
            before = rig.figures()[SUCCESS]
            labels = [one.label for one in look(rig.settings.tool, time.time()).content.backups]
            fill(disk / "filler")
            outcome = back_up(replace(rig.settings, repository_path=disk), "full")
            assert not outcome.succeeded
            assert outcome.message.startswith("no backup was made: the disk has 0.0 % left; ")
            assert rig.figures()[RUN % "full"] == 0
            assert rig.figures()[SUCCESS] == before
            assert [one.label for one in look(rig.settings.tool, time.time()).content.backups] == labels
            (disk / "filler").unlink()
        finally:
            rig.configure()


def test_pruning_keeps_what_is_not_replaced_by_something_verified(rig: PgBackRestRig) -> None:
    settings = rig.settings
    old = look(settings.tool, time.time()).content.backups[0].label
    outcome = back_up(settings, "full")
    assert outcome.succeeded, outcome.message
    # The retention here is one full backup: the older went, with what is based on it, after the verification.
    assert f"pruned {old}" in outcome.message
    left = look(settings.tool, time.time()).content.backups
    assert [one.type for one in left] == ["full"]
    with pytest.raises(BackupError, match=left[0].label):
        refused(rig, left[0].label)
    known = record.load(settings.record)
    known.verified.clear()
    record.save(settings.record, known)
    assert "is not verified" in refused(rig)
