"""What a restore is asked for: up to where, from which backup, which databases.

Standard library only: Ansible ships this file to the database host.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

#: Labels as pgBackRest makes them: full, and what builds on a full backup.
_LABEL = re.compile(r"\d{8}-\d{6}F(_\d{8}-\d{6}[DI])?")
_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})")


class RestoreError(Exception):
    """A restore or dump cannot be done or is not right; the message is a sentence for an operator."""


@dataclass(frozen=True)
class Request:
    """What to restore.

    ``kind`` is ``end`` (all that is archived), ``time`` (what had been committed at ``time``, in UTC) or
    ``immediate`` (a backup as it was when it ended). ``databases`` are the only ones wanted; all when empty.
    """

    kind: str
    time: datetime | None = None
    backup: str | None = None
    databases: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain data that is equal for equal requests."""
        return {
            "kind": self.kind,
            "time": rfc3339(self.time) if self.time else None,
            "backup": self.backup,
            "databases": list(self.databases),
        }

    def __str__(self) -> str:
        """Return it for a sentence."""
        target = rfc3339(self.time) if self.time else {"end": "the end of the archive"}.get(self.kind)
        if target is None:
            return f"backup {self.backup or 'newest'} as it was when it ended"
        return f"{target}{f' from backup {self.backup}' if self.backup else ''}"


def parse_request(recover_to: str | None, backup: str | None, databases: Sequence[str] = ()) -> Request:
    """Return what the words mean: ``end``, ``immediate``, or a time in RFC 3339 with its offset from UTC.

    Without ``recover_to``, a backup means that backup as it was, and nothing means the end. Raises
    RestoreError.
    """
    if backup is not None and not _LABEL.fullmatch(backup):
        raise RestoreError(
            f"{backup!r} is no label of a backup; `pgbackrest info` lists them, like 20260131-020000F"
        )
    names = tuple(sorted(set(databases)))
    word = recover_to or ("immediate" if backup else "end")
    if word in ("end", "immediate"):
        return Request(word, None, backup, names)
    return Request("time", parse_time(word), backup, names)


def parse_time(text: str) -> datetime:
    """Return a time in UTC. Raises RestoreError for one without an offset: it would be another time here."""
    if not _RFC3339.fullmatch(text):
        raise RestoreError(
            f"{text!r} is not a time in RFC 3339 with an offset from UTC, like 2026-01-31T12:00:00Z"
            " or 2026-01-31T13:00:00+01:00"
        )
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise RestoreError(f"{text!r} is no time: {error}") from None


def rfc3339(moment: datetime) -> str:
    """Return a moment as text in UTC, to the microsecond where it has some."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
