"""What is missing in an archive of WAL, and what is wrong with backups: without any database."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from stationkeeper.backup.content import Backup, Content, Repository, parse
from stationkeeper.backup.expiry import removed
from stationkeeper.backup.judgement import age, judge
from stationkeeper.backup.look import Look
from stationkeeper.backup.record import Record
from stationkeeper.backup.verification import WAL, problems
from stationkeeper.backup.verification import parse as parse_report
from stationkeeper.backup.wal import Archive, Gap, Switch, gaps, histories, name, number, segments, switch

DAY = 86400.0
NOW = 1_800_000_000.0
OBJECTIVES = (("database_full", 8 * DAY), ("database_diff", DAY))


def backup(
    label: str, *, began: float = NOW - 3600, first: int = 10, timeline: int = 1, **other: object
) -> Backup:
    """Return a backup that needs two segments of WAL, from ``first`` on."""
    values: dict[str, object] = {
        "label": label,
        "type": {"F": "full", "D": "diff", "I": "incr"}[label[-1]],
        "repository": 1,
        "began": began,
        "ended": began + 60,
        "wal_first": name(1, first),
        "wal_last": name(1, first + 1),
        "size": 2**30,
        "stored": 2**28,
        "archive": "17-1",
        "page_errors": False,
        "references": (),
    }
    return Backup(**(values | other))  # type: ignore[arg-type]


def archive(*spans: tuple[int, int, int], switches: dict[int, Switch] | None = None) -> Archive:
    """Return an archive with spans (timeline, first, last), one segment a second."""
    found = {(line, at): float(at) for line, first, last in spans for at in range(first, last + 1)}
    return Archive(found, switches or {})


def missing(found: Archive, backups: Sequence[Backup], settled: float = 1e9) -> list[tuple[str, str, int]]:
    return [(gap.first, gap.last, gap.count) for gap in gaps(found, backups, backups[0], settled)]


def test_names_of_segments_go_on_over_the_end_of_a_log() -> None:
    assert number("0000000200000001000000FF") == (2, 511)
    assert name(2, 512) == "000000020000000200000000"
    assert number("000000010000000000000FFF", 2**20) == (1, 4095)


def test_files_of_an_archive_are_told_apart() -> None:
    files = {
        f"0000000100000000/{name(1, 5)}-{'a' * 40}.zst": 1.0,
        f"0000000100000000/{name(1, 5)}.00000028.backup": 2.0,
        f"0000000100000000/{name(1, 6)}.partial-{'b' * 40}.zst": 3.0,
        "00000002.history": 4.0,
    }
    assert segments(files) == {(1, 5): 1.0}
    assert histories(files) == {2: "00000002.history"}
    assert switch("1\t0/5000140\tno recovery target specified\n") == Switch(1, 5)
    assert switch("") is None


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (archive((1, 10, 20)), []),
        (archive((1, 10, 14), (1, 16, 20)), [(name(1, 15), name(1, 15), 1)]),
        (archive((1, 10, 11), (1, 300, 300)), [(name(1, 12), name(1, 299), 288)]),
        # Needed by the backup itself.
        (archive((1, 10, 10), (1, 12, 20)), [(name(1, 11), name(1, 11), 1)]),
        # Before the oldest backup nothing is needed.
        (archive((1, 2, 4), (1, 10, 20)), []),
        # A new primary goes on from the segment in which it left the old one.
        (archive((1, 10, 14), (2, 15, 20), switches={2: Switch(1, 15)}), []),
        (archive((1, 10, 12), (2, 15, 20), switches={2: Switch(1, 15)}), [(name(1, 13), name(1, 14), 2)]),
        (archive((1, 10, 14), (2, 17, 20), switches={2: Switch(1, 15)}), [(name(2, 15), name(2, 16), 2)]),
        # What an old primary wrote after it had been left is of no use to anybody.
        (archive((1, 10, 15), (1, 18, 19), (2, 15, 20), switches={2: Switch(1, 15)}), []),
        (archive((1, 10, 14), (2, 15, 20)), [("00000002.history", "00000002.history", 1)]),
    ],
)
def test_what_is_missing_follows_from_backups_and_timelines(
    found: Archive, expected: list[tuple[str, str, int]]
) -> None:
    assert missing(found, [backup("20270101-000000F")]) == expected


def test_a_segment_that_may_still_come_is_not_missing() -> None:
    found = archive((1, 10, 14), (1, 16, 16))
    assert missing(found, [backup("20270101-000000F")], settled=15.0) == []
    assert missing(found, [backup("20270101-000000F")], settled=16.0) == [(name(1, 15), name(1, 15), 1)]


def test_archives_of_a_year_need_only_the_wal_of_each_backup_before_the_newest() -> None:
    old, new = backup("20260101-000000F"), backup("20270101-000000F", first=40)
    found = archive((1, 10, 11), (1, 40, 45))
    assert gaps(found, [old, new], new, 1e9) == []
    assert missing(found, [old, new]) == [(name(1, 12), name(1, 39), 28)]


def look(*backups: Backup, **other: object) -> Look:
    content = Content((Repository(1, 0, "ok"),), backups, ((1, "17-1"),), busy=False)
    values: dict[str, object] = {"content": content, "gaps": {1: []}, "newest": {1: NOW}, "broken": {}}
    return Look(**(values | other))  # type: ignore[arg-type]


def known(*backups: Backup, at: float = NOW) -> Record:
    return Record(
        verified={f"{one.repository}/{one.label}": at for one in backups},
        verifications={"1": {"at": at, "problems": []}},
    )


def test_a_full_backup_stands_for_a_differential_one_and_only_verified_ones_count() -> None:
    full = backup("20270101-000000F")
    assert judge(look(full), known(full), OBJECTIVES, NOW).good
    unverified = judge(look(full), known(), OBJECTIVES, NOW).problems
    assert "there is no verified full backup (1 that are not verified)" in unverified
    old = backup("20270101-000000F", began=NOW - 2 * DAY)
    assert judge(look(old), known(old), OBJECTIVES, NOW).problems == [
        "the newest verified diff backup is 2 d old, 1 d are allowed"
    ]
    assert judge(look(), Record(), OBJECTIVES, NOW).problems[0] == "there is no verified full backup"


def test_what_is_wrong_is_said_once_and_in_a_sentence() -> None:
    full = backup("20270101-000000F")
    gap = Gap(name(1, 5), name(1, 6), 2, "no moment between it and the next backup can be restored")
    record = known(full, at=NOW - 9 * DAY)
    record.verifications["1"]["problems"] = [{"subject": WAL, "message": str(gap)}]
    record.add_run("database_diff", succeeded=False, message="no room", at=NOW - 60)
    found = judge(look(full, gaps={1: [gap]}, broken={2: "certificate expired"}), record, OBJECTIVES, NOW)
    assert found.problems == [
        "repository 2 cannot be read: certificate expired",
        "WAL 000000010000000000000005 to 000000010000000000000006 (2 segments) is missing: "
        "no moment between it and the next backup can be restored",
        "repository 1 was last verified 9 d ago",
        "the last run of database_diff failed 1 min ago: no room",
    ]
    assert found.table()[0].startswith(
        "20270101-000000F: database_full in repository 1, 1 h old, 256.0 MiB of"
    )


VERIFIED = """P00   INFO: stanza: flux
            status: ok
              archiveId: 17-1, total WAL checked: 5, total valid WAL: 5
              backup: 20270101-000000F, status: valid, total files checked: 9, total valid files: 9
"""


def test_a_verification_proves_only_what_it_names() -> None:
    full, other = backup("20270101-000000F"), backup("20270102-000000F")
    report = parse_report(VERIFIED)
    assert report.proves([full.label])
    assert problems(report, [full], [], 0) == []
    assert [one.message for one in problems(report, [full, other], [], 0)] == [
        "backup 20270102-000000F is not looked at"
    ]
    # With a wrong passphrase it says nothing, and ends with 0.
    assert [one.subject for one in problems(parse_report(""), [full], [], 0)] == [full.label]
    assert [one.message for one in problems(parse_report(""), [], [], 0)] == [
        "verify calls the repository none and names no reason"
    ]
    assert [one.message for one in problems(report, [full], [], 25)] == ["verify itself ended with 25"]


def test_damaged_wal_belongs_to_the_backup_that_needs_it() -> None:
    path = f"17-1/0000000100000000/{name(1, 11)}-{'a' * 40}.zst"
    output = (
        f"P01   INFO: invalid result {path}: [29] raised from local-1 protocol: zst error\n"
        + VERIFIED.replace("valid WAL: 5", "valid WAL: 4").replace("status: ok", "status: error")
    )
    full = backup("20270101-000000F")
    (found,) = problems(parse_report(output), [full], [], 0)
    assert found.subject == full.label
    assert found.message.startswith(f"WAL {name(1, 11)} is damaged, and backup {full.label} needs it: ")
    (found,) = problems(parse_report(output), [backup("20270101-000000F", first=1)], [], 0)
    assert found.subject == WAL
    # Older than every backup: no restore needs it.
    assert problems(parse_report(output), [backup("20270101-000000F", first=40)], [], 0) == []


def test_a_bundle_that_is_gone_is_named_once() -> None:
    lines = "P01   INFO: file missing '20270101-000000F/bundle/2'\n" * 100
    output = lines + VERIFIED.replace("status: valid", "status: invalid")
    (found,) = problems(parse_report(output), [backup("20270101-000000F")], [], 0)
    assert found.message == "file missing 20270101-000000F/bundle/2"


def test_a_backup_with_pages_that_were_damaged_already_is_not_good() -> None:
    full = backup("20270101-000000F", page_errors=True)
    assert "whose checksum was wrong already" in problems(parse_report(VERIFIED), [full], [], 0)[0].message
    assert "there is no verified full backup" in judge(look(full), known(full), OBJECTIVES, NOW).problems[0]


def test_a_stanza_that_does_not_exist_is_no_error_of_the_parser() -> None:
    content = parse([{"name": "other"}], "flux")
    assert [one.answers for one in content.repositories] == [False]
    assert content.backups == ()


def test_ages_and_what_an_expire_says() -> None:
    assert [age(value) for value in (0, 59, 61, 3600, 90061)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "1 h",
        "1 d 1 h",
    ]
    said = "repo1: expire full backup 20270101-000000F\nrepo1: 17-1 remove archive, start = A\n"
    assert removed(said) == ["expire full backup 20270101-000000F", "remove archive, start = A"]
