"""Errors in a journal, counted by what they say and not by when they said it. Pure logic.

Standard library only: Ansible ships this file with the module that uses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ..audit.redact import Redactor
from .journal import message, parsed

#: What syslog calls err, crit, alert and emerg.
_ERROR = 3
_SHOWN = 300
# How programs say it that write everything with one priority: by the first of these (Python, PostgreSQL, Go).
_LEVEL = re.compile(
    r"\b(DEBUG|INFO|NOTICE|LOG|WARNING|WARN|ERROR|CRITICAL|FATAL|PANIC|DETAIL|HINT|STATEMENT|CONTEXT)\b"
    r"|\blevel=(\w+)"
)
_ERROR_LEVELS = {"ERROR", "CRITICAL", "FATAL", "PANIC"}
_SEARCHED = 200
_UNREADABLE = {
    "MESSAGE": "a line of the journal cannot be read",
    "PRIORITY": "3",
    "_SYSTEMD_UNIT": "journal",
}
# What differs between two messages of one kind.
_VARIABLE = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE), "…"),
    (re.compile(r"\b\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(?:[.,]\d+)?(?:Z|[+-]\d{2}:?\d{2})?"), "…"),
    (re.compile(r"\b0x[0-9a-f]+\b|\b(?=[0-9a-f]*\d)[0-9a-f]{12,}\b", re.IGNORECASE), "…"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "…"),
)


@dataclass
class Group:
    """Messages of one kind. ``message`` is the newest of them; times are RFC 3339 in UTC."""

    unit: str
    message: str
    count: int
    first: str
    last: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for Ansible."""
        return asdict(self)


def grouped(lines: Iterable[str], redactor: Redactor) -> list[Group]:
    """Count the errors in lines of ``journalctl --output=json``, the most frequent first.

    A line that is none is an error of the journal itself, and counted as one.
    """
    found: dict[tuple[str, str], Group] = {}
    for line in lines:
        try:
            moment, entry = parsed(line)
        except ValueError:
            moment, entry = datetime.fromtimestamp(0, UTC), _UNREADABLE
        text = message(entry)
        if not is_error(str(entry.get("PRIORITY", "6")), text):
            continue
        unit = str(entry.get("_SYSTEMD_UNIT") or entry.get("SYSLOG_IDENTIFIER") or "kernel")
        at = moment.isoformat(timespec="seconds")
        group = found.setdefault((unit, shape(text)), Group(unit, "", 0, at, at))
        group.count += 1
        group.message, group.last = redactor.text(text.strip(), _SHOWN), at
    return sorted(found.values(), key=lambda one: (-one.count, one.unit, one.message))


def is_error(priority: str, text: str) -> bool:
    """Whether an entry is an error, by its priority or by the first level that its message names."""
    if priority.isdigit() and int(priority) <= _ERROR:
        return True
    level = _LEVEL.search(text, 0, _SEARCHED)
    return level is not None and (level[1] or level[2]).upper() in _ERROR_LEVELS


def shape(text: str) -> str:
    """Return what messages of one kind have in common."""
    first = text.strip().partition("\n")[0]
    for pattern, replacement in _VARIABLE:
        first = pattern.sub(replacement, first)
    return first[:_SHOWN]
