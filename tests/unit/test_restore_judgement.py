"""What a restore is asked for, which backup it takes, and whether it got there: without a server."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from stationkeeper.restore.recovery import judge, read_log
from stationkeeper.restore.repository import choose, merged, parse_info
from stationkeeper.restore.request import Request, RestoreError, parse_request

NOON = "2026-01-31T12:00:00Z"
SEGMENT = "0000000100000000000000"


def info(*backups: dict[str, Any], archived: str = f"{SEGMENT}09") -> str:
    """Return pgBackRest's answer with backups of the current cluster and one of the cluster before."""
    older = {"label": "20250101-000000F", "timestamp": {"stop": 1735689600}, "database": {"id": 1}}
    entries = [older | {"info": {"size": 1}}]
    for backup in backups:
        entries.append({"database": {"id": 2}, "info": {"size": 100}} | backup)
    return json.dumps(
        [
            {
                "name": "flux",
                "status": {"code": 0, "message": "ok"},
                "db": [{"id": 1}, {"id": 2}],
                "backup": entries,
                "archive": [
                    {"max": "0000000900000000000000FF", "database": {"id": 1}},
                    {"max": archived, "database": {"id": 2}},
                ],
            }
        ]
    )


def at(hour: int, label: str, **more: Any) -> dict[str, Any]:
    """Return a backup that ended at an hour of the day of NOON."""
    stop = int(datetime(2026, 1, 31, hour, tzinfo=UTC).timestamp())
    return {"label": label, "timestamp": {"stop": stop}} | more


TWO = info(at(2, "20260131-020000F"), at(10, "20260131-020000F_20260131-100000I"))


@pytest.mark.parametrize(
    ("recover_to", "backup", "expected"),
    [
        (None, None, "20260131-020000F_20260131-100000I"),
        (NOON, None, "20260131-020000F_20260131-100000I"),
        ("2026-01-31T13:00:00+03:00", None, "20260131-020000F"),
        (None, "20260131-020000F", "20260131-020000F"),
        ("end", "20260131-020000F", "20260131-020000F"),
    ],
)
def test_the_newest_backup_before_the_target_is_taken(
    recover_to: str | None, backup: str | None, expected: str
) -> None:
    repository = parse_info(TWO, "flux")
    assert repository.archived_to == f"{SEGMENT}09"
    assert choose(repository, parse_request(recover_to, backup)).label == expected


@pytest.mark.parametrize(
    ("recover_to", "backup", "message"),
    [
        ("2026-01-31 12:00:00", None, "with an offset"),
        ("2026-02-30T12:00:00Z", None, "is no time"),
        ("yesterday", None, "with an offset"),
        (None, "newest", "no label of a backup"),
        (None, "20200101-000000F", "no backup 20200101-000000F; it has 20260131"),
        ("2026-01-31T01:00:00Z", None, "before the oldest backup was complete, at 2026-01-31T02:00:00Z"),
        ("2026-01-31T02:00:00Z", None, "before the oldest backup was complete"),
        ("2026-01-31T09:00:00Z", "20260131-020000F_20260131-100000I", "before backup 2026.*I was complete"),
    ],
)
def test_what_cannot_be_restored_is_refused(recover_to: str | None, backup: str | None, message: str) -> None:
    with pytest.raises(RestoreError, match=message):
        choose(parse_info(TWO, "flux"), parse_request(recover_to, backup))


def test_a_backup_of_damaged_pages_is_not_taken_by_itself() -> None:
    repository = parse_info(info(at(2, "20260131-020000F"), at(3, "20260131-030000F", error=True)), "flux")
    assert choose(repository, parse_request("end", None)).label == "20260131-020000F"
    with pytest.raises(RestoreError, match="damaged pages"):
        choose(repository, parse_request(None, "20260131-030000F"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "no stanza flux"), ("{", "not understood"), (info(), "has no backup of flux")],
)
def test_a_repository_without_backups_says_so(text: str, message: str) -> None:
    with pytest.raises(RestoreError, match=message):
        parse_info(text, "flux")


def test_backups_of_several_repositories_are_one_list() -> None:
    local = parse_info(TWO, "flux")
    archive = parse_info(info(at(5, "20260131-050000F"), archived=f"{SEGMENT}0A"), "flux", 2)
    both = merged([archive, local], ["repository 3: away"])
    assert [(one.label[:15], one.repository) for one in both.backups] == [
        ("20260131-020000", 1),
        ("20260131-050000", 2),
        ("20260131-020000", 1),
    ]
    assert both.archived_to == f"{SEGMENT}0A"
    assert choose(both, parse_request(None, "20260131-050000F")).repository == 2
    with pytest.raises(RestoreError, match=r"no backup 20200101-000000F; .*; repository 3: away"):
        choose(both, parse_request(None, "20200101-000000F"))


TIME = Request("time", datetime(2026, 1, 31, 12, tzinfo=UTC))
STOPPING = "LOG:  recovery stopping before commit of transaction 7, time 2026-01-31 {}"
EARLY = (
    "LOG:  last completed transaction was at log time 2026-01-31 11:30:00.5+00\n"
    "FATAL:  recovery ended before configured recovery target was reached"
)
FETCHED = 'LOG:  restored log file "{}" from archive\nLOG:  selected new timeline ID: 2'


@pytest.mark.parametrize(
    ("request_", "log", "last", "message"),
    [
        (TIME, STOPPING.format("12:00:00.000001+00"), "2026-01-31T12:00:00Z", None),
        (TIME, STOPPING.format("12:00:05+00"), None, None),
        # A row of that very moment belongs to it.
        (TIME, STOPPING.format("12:00:00+00"), None, "too early"),
        (TIME, STOPPING.format("12:00:05+00"), "2026-01-31T12:00:03Z", "went on to 2026-01-31T12:00:03Z"),
        (TIME, EARLY, None, "not reached: the last transaction in the archive is of 2026-01-31T11:30:00.5"),
        (TIME, "LOG:  redo done", None, "did not stop"),
        (TIME, "ERROR: [037]: no key\nFATAL:  no checkpoint", None, "pgBackRest: .037.: no key"),
        (Request("immediate"), "LOG:  recovery stopping after reaching consistency", None, None),
        (Request("immediate"), "PANIC:  broken", None, "did not become consistent: broken"),
        (Request("end"), FETCHED.format(f"{SEGMENT}09"), None, None),
        # Written since the archive was looked at, also on a newer timeline.
        (Request("end"), FETCHED.format("00000002000000000000000A"), None, None),
        (
            Request("end"),
            FETCHED.format(f"{SEGMENT}07"),
            None,
            "had WAL up to 0+1.*09, but recovery ended",
        ),
        (Request("end"), "LOG:  selected new timeline ID: 2", None, "ended with none of it"),
        (Request("end"), "FATAL:  the disk is full", None, "did not end: the disk is full"),
    ],
)
def test_the_log_tells_whether_the_target_was_reached(
    request_: Request, log: str, last: str | None, message: str | None
) -> None:
    verdict = judge(
        request_,
        read_log(log),
        last_replayed=datetime.fromisoformat(last) if last else None,
        lsn="0/9000000",
        archived_to=f"{SEGMENT}09",
    )
    assert verdict.reached == (message is None), verdict
    if message is not None:
        assert re.search(message, verdict.message), verdict.message
