"""Which segments of WAL an archive lacks.

`pgbackrest verify` counts what is there and calls it good: a segment that is gone leaves its status at `ok`,
even one without which a backup cannot be restored. So what must be there is computed here, from the backups
and from the histories of the timelines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .content import Backup

SEGMENT_BYTES = 16 * 1024 * 1024
_SEGMENT = re.compile(r"(?:.*/)?([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})-[0-9a-f]{40}(?:\.\w+)?")
_HISTORY = re.compile(r"(?:.*/)?([0-9A-F]{8})\.history(?:[-.].*)?")


@dataclass(frozen=True)
class Switch:
    """Where a timeline left another one: the parent, and the segment of the parent's last record."""

    parent: int
    number: int


@dataclass(frozen=True)
class Archive:
    """Segments that are there, by timeline and number, with when they came (seconds since 1970)."""

    segments: Mapping[tuple[int, int], float]
    switches: Mapping[int, Switch]
    segment_bytes: int = SEGMENT_BYTES

    @property
    def newest(self) -> float | None:
        """Return when the newest segment came."""
        return max(self.segments.values(), default=None)


@dataclass(frozen=True)
class Gap:
    """Segments that are missing, from ``first`` to ``last``, and what cannot be done without them."""

    first: str
    last: str
    count: int
    consequence: str
    #: The backup that cannot be restored; empty when a moment between backups cannot be reached.
    label: str = ""

    def __str__(self) -> str:
        """Return the sentence for an operator."""
        names = self.first if self.count == 1 else f"{self.first} to {self.last} ({self.count} segments)"
        return f"WAL {names} is missing: {self.consequence}"


def number(name: str, segment_bytes: int = SEGMENT_BYTES) -> tuple[int, int]:
    """Return timeline and running number of a segment by its name of 24 digits."""
    return int(name[:8], 16), int(name[8:16], 16) * (2**32 // segment_bytes) + int(name[16:24], 16)


def name(timeline: int, running: int, segment_bytes: int = SEGMENT_BYTES) -> str:
    """Return the name of a segment."""
    log, segment = divmod(running, 2**32 // segment_bytes)
    return f"{timeline:08X}{log:08X}{segment:08X}"


def segments(files: Mapping[str, float], segment_bytes: int = SEGMENT_BYTES) -> dict[tuple[int, int], float]:
    """Return the whole segments among the files of an archive (path to time)."""
    found = {}
    for path, came in files.items():
        match = _SEGMENT.fullmatch(path)
        if match:
            found[number("".join(match.groups()), segment_bytes)] = came
    return found


def histories(files: Iterable[str]) -> dict[int, str]:
    """Return the paths of the histories of timelines among the files of an archive."""
    return {int(match[1], 16): path for path in files if (match := _HISTORY.fullmatch(path))}


def switch(history: str, segment_bytes: int = SEGMENT_BYTES) -> Switch | None:
    """Return where a timeline began, by the text of its history; None where that says nothing."""
    lines = [line.split() for line in history.splitlines() if line.strip() and not line.startswith("#")]
    if not lines or "/" not in lines[-1][1]:
        return None
    high, low = (int(part, 16) for part in lines[-1][1].split("/"))
    return Switch(int(lines[-1][0]), (high * 2**32 + low) // segment_bytes)


def gaps(archive: Archive, backups: Sequence[Backup], continuous: Backup | None, settled: float) -> list[Gap]:
    """Return what is missing: for each backup, and from the backup ``continuous`` on for any later moment.

    Segments come in any order, so one is missing only when a later one came before ``settled``.
    """
    found = [gap for backup in backups for gap in _of_backup(archive, backup)]
    if continuous is None:
        return found
    needed = {name for gap in found for name in (gap.first, gap.last)}
    return found + [gap for gap in _after(archive, continuous, settled) if gap.first not in needed]


def _of_backup(archive: Archive, backup: Backup) -> list[Gap]:
    timeline, first = number(backup.wal_first, archive.segment_bytes)
    last = number(backup.wal_last, archive.segment_bytes)[1]
    return [
        Gap(*names, f"backup {backup.label} cannot be restored", backup.label)
        for names in _missing(archive, timeline, first, last)
    ]


def _after(archive: Archive, backup: Backup, settled: float) -> list[Gap]:
    oldest, start = number(backup.wal_last, archive.segment_bytes)
    found = []
    # Until where a timeline is needed: where the last of the others left it.
    left: dict[int, int] = {}
    for one in archive.switches.values():
        left[one.parent] = max(left.get(one.parent, 0), one.number)
    present = {timeline for timeline, _ in archive.segments if timeline > oldest}
    for timeline in [oldest, *sorted(present)]:
        came = [at for (line, at), when in archive.segments.items() if line == timeline and when <= settled]
        origin = archive.switches.get(timeline)
        if timeline > oldest and origin is None:
            history = f"{timeline:08X}.history"
            found.append(Gap(history, history, 1, f"timeline {timeline} cannot be reached"))
            continue
        begin = start if timeline == oldest or origin is None else max(origin.number, start)
        # What a timeline has beyond the point at which the next one left it is of no use to anybody.
        end = max((at for at in came if at <= left.get(timeline, at)), default=begin - 1)
        end = max(end, left.get(timeline, 0) - 1)
        found += [
            Gap(*names, "no moment between it and the next backup can be restored")
            for names in _missing(archive, timeline, begin, end)
        ]
    return found


def _missing(archive: Archive, timeline: int, first: int, last: int) -> list[tuple[str, str, int]]:
    """Return the ranges that are missing: the names of the first and the last segment, and how many."""
    found: list[tuple[str, str, int]] = []
    begin: int | None = None
    for running in range(first, last + 2):
        there = running > last or (timeline, running) in archive.segments
        if not there and begin is None:
            begin = running
        if there and begin is not None:
            edges = [name(timeline, edge, archive.segment_bytes) for edge in (begin, running - 1)]
            found.append((edges[0], edges[1], running - begin))
            begin = None
    return found
