"""Whether recovery ended where it was asked to: judged from PostgreSQL's own log and answers.

Standard library only: Ansible ships this file to the database host. The server must log in English, in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .request import Request, parse_time, rfc3339

_MOMENT = r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?\+00)"
_STOPPED_AT = re.compile(rf"recovery stopping (before|after) (?:commit|abort) .*?time {_MOMENT}")
_CONSISTENT = re.compile(r"recovery stopping after reaching consistency")
_LAST_TRANSACTION = re.compile(rf"last completed transaction was at log time {_MOMENT}")
_RESTORED = re.compile(r'restored log file "([0-9A-F]{24})" from archive')
_TIMELINE = re.compile(r"selected new timeline ID: (\d+)")
_TOO_EARLY = "recovery ended before configured recovery target was reached"
_LOUD = re.compile(r"(?:FATAL|PANIC|ERROR): +(.*)")


@dataclass(frozen=True)
class Recovery:
    """What a server's log says about its recovery. Times are UTC."""

    stopped_before: datetime | None = None
    stopped_after: datetime | None = None
    consistent: bool = False
    ended_early: bool = False
    last_transaction: datetime | None = None
    last_segment: str | None = None
    timeline: int | None = None
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Whether the target was reached, why, and the evidence."""

    reached: bool
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


def read_log(text: str) -> Recovery:
    """Return what a log says; it may be of several starts, then the last word on each question counts."""
    stops = {word: _moment(at) for word, at in _STOPPED_AT.findall(text)}
    last = _LAST_TRANSACTION.findall(text)
    segments = _RESTORED.findall(text)
    timelines = _TIMELINE.findall(text)
    return Recovery(
        stopped_before=stops.get("before"),
        stopped_after=stops.get("after"),
        consistent=bool(_CONSISTENT.search(text)),
        ended_early=_TOO_EARLY in text,
        last_transaction=_moment(last[-1]) if last else None,
        last_segment=max(segments, key=_position) if segments else None,
        timeline=int(timelines[-1]) if timelines else None,
        # The server refuses connections until it is consistent; that is no error of it.
        errors=tuple(line for line in _LOUD.findall(text) if "the database system is" not in line),
    )


def judge(
    request: Request,
    recovery: Recovery,
    *,
    last_replayed: datetime | None,
    lsn: str | None,
    archived_to: str | None,
) -> Verdict:
    """Say whether recovery stopped where it was asked to.

    ``last_replayed`` is the commit time of the last transaction that was replayed, ``lsn`` the position after
    it, both as the server says; ``archived_to`` is the newest segment that the archive had before.
    """
    last = last_replayed or recovery.last_transaction
    evidence = {
        "target": str(request),
        "last_transaction": rfc3339(last) if last else None,
        "lsn": lsn,
        "timeline": recovery.timeline,
        "last_segment": recovery.last_segment,
        "archived_to": archived_to,
        "stopped_before": rfc3339(recovery.stopped_before) if recovery.stopped_before else None,
    }
    wrong = _wrong(request, recovery, last, archived_to)
    if wrong is not None:
        return Verdict(False, wrong, evidence)
    message = f"reached {request}; last transaction {rfc3339(last) if last else 'none since the backup'}"
    return Verdict(True, message, evidence)


def _wrong(
    request: Request, recovery: Recovery, last: datetime | None, archived_to: str | None
) -> str | None:
    if request.time is not None:
        return _wrong_time(request.time, recovery, last)
    if request.kind == "immediate":
        return None if recovery.consistent else f"the backup did not become consistent: {_reason(recovery)}"
    if recovery.ended_early or recovery.timeline is None:
        return f"recovery did not end: {_reason(recovery)}"
    if archived_to is not None and (
        recovery.last_segment is None or _position(recovery.last_segment) < _position(archived_to)
    ):
        return (
            f"the archive had WAL up to {archived_to}, but recovery ended with"
            f" {recovery.last_segment or 'none of it'}: a segment before it is missing or damaged"
        )
    return None


def _wrong_time(target: datetime, recovery: Recovery, last: datetime | None) -> str | None:
    got = f"the last transaction in the archive is of {rfc3339(last)}" if last else "it has no transaction"
    if recovery.ended_early:
        return (
            f"{rfc3339(target)} was not reached: {got}. Restore to a time before it, or to the end if"
            " nothing was committed since"
        )
    if recovery.stopped_before is None:
        return f"recovery did not stop at {rfc3339(target)}: {_reason(recovery)}"
    if recovery.stopped_before <= target:
        return f"recovery stopped before a transaction of {rfc3339(recovery.stopped_before)}, too early"
    if last is not None and last > target:
        return f"recovery went on to {rfc3339(last)}, past {rfc3339(target)}"
    return None


def _reason(recovery: Recovery) -> str:
    # What pgBackRest says comes before what PostgreSQL makes of it.
    for error in recovery.errors:
        if error.startswith("["):
            return f"pgBackRest: {error}"
    return recovery.errors[-1] if recovery.errors else "its log does not say why"


def _position(segment: str) -> str:
    """Return a segment's place in WAL without its timeline."""
    return segment[8:]


def _moment(text: str) -> datetime:
    return parse_time(re.sub(r"\+00$", "+00:00", text))
