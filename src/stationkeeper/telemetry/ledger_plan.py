"""What a new look at a device's time changes in the ledger. Pure.

Spans are open at both ends. Time that was not looked at keeps the entries it has; time that was looked at
gets exactly the entries that the gaps found there ask for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any

from stationkeeper.telemetry.sweep import missing_between

# Whoever holds a claim decides about it; what was dropped or given up does not come back by itself.
_LEFT_ALONE = frozenset({"claimed", "expired", "unrecoverable"})


@dataclass(frozen=True)
class Span:
    """A part of time, without its ends."""

    start: datetime
    end: datetime

    def touches(self, other: Span) -> bool:
        """Tell whether one begins where the other ends."""
        return self.end == other.start or other.end == self.start

    def common(self, other: Span) -> Span | None:
        """Return what both have in common, or None."""
        start, end = max(self.start, other.start), min(self.end, other.end)
        return Span(start, end) if start < end else None

    def without(self, others: Iterable[Span]) -> list[Span]:
        """Return the pieces that are in none of the others."""
        pieces, begin = [], self.start
        for other in sorted(others, key=lambda one: one.start):
            if other.end <= begin or other.start >= self.end:
                continue
            if other.start > begin:
                pieces.append(Span(begin, other.start))
            begin = max(begin, other.end)
        if begin < self.end:
            pieces.append(Span(begin, self.end))
        return pieces


@dataclass(frozen=True)
class Standing:
    """An entry of the ledger, or one to be made when ``id`` is None. ``expected`` is a number of rows."""

    id: int | None
    span: Span
    expected: int
    state: str
    reason: str | None = None
    evidence: dict[str, Any] = field(default_factory=dict, compare=False)

    def like(self, other: Standing) -> bool:
        """Tell whether both say the same about their time. The reason of expired ones names a moving day."""
        return self.state == other.state and (self.state == "expired" or self.reason == other.reason)


@dataclass(frozen=True)
class Look:
    """A span that was looked at. Unless ``continued``, for a row within reach before it too."""

    span: Span
    continued: bool = False


@dataclass(frozen=True)
class Plan:
    """Entries to insert, entries as they shall be, and those whose rows have all come."""

    insert: tuple[Standing, ...]
    update: tuple[Standing, ...]
    close: tuple[Standing, ...]


class _Line:
    """Entries in the order of their time, to find those near a span without looking at all of them."""

    def __init__(self, entries: Iterable[Standing]) -> None:
        self._entries = sorted(entries, key=lambda entry: entry.span.start)
        self._starts = [entry.span.start for entry in self._entries]
        self._ends = list(accumulate((entry.span.end for entry in self._entries), max))

    def __iter__(self) -> Iterator[Standing]:
        return iter(self._entries)

    def near(self, span: Span) -> list[Standing]:
        """Return the entries that have something in common with a span or touch it, and perhaps others."""
        return self._entries[bisect_left(self._ends, span.start) : bisect_right(self._starts, span.end)]


def plan(
    standing: Sequence[Standing],
    found: Sequence[Standing],
    looked_at: Sequence[Look],
    *,
    cadence_s: float,
    k: float,
) -> Plan:
    """Return what makes the entries of one device agree with the gaps found in the spans looked at.

    ``found`` are entries to be (without id): gaps that are open, explained or expired.
    """
    gaps = _Line(_disjoint(found, cadence_s))
    looks = _Line(Standing(None, look.span, 0, "look") for look in looked_at)
    reach = timedelta(seconds=cadence_s * k)
    backs = [Span(look.span.start - reach, look.span.start) for look in looked_at if not look.continued]
    kept: dict[int, Standing] = {}
    close, insert = [], []
    loose: list[Standing] = []
    for entry in standing:
        assert entry.id is not None
        parts = [entry] if entry.state in _LEFT_ALONE else _parts(entry, gaps, (looks, backs), cadence_s)
        if not parts:
            close.append(entry)
            continue
        keep = next((part for part in parts if part.state == entry.state), parts[0])
        kept[entry.id] = replace(keep, id=entry.id)
        loose += [part for part in parts if part is not keep]
    occupied = _Line((*kept.values(), *loose))
    for gap in gaps:
        taken = [entry.span for entry in occupied.near(gap.span)]
        loose += [_cut(gap, piece, cadence_s) for piece in gap.span.without(taken)]
    held = _Line(kept.values())
    for part in loose:
        near = (kept[entry.id] for entry in held.near(part.span) if entry.id is not None)
        into = next((entry for entry in near if _continues(entry, part, gaps)), None)
        if into is None:
            insert.append(part)
        else:
            assert into.id is not None
            whole = Span(min(into.span.start, part.span.start), max(into.span.end, part.span.end))
            kept[into.id] = _cut(into, whole, cadence_s, gaps)
    before = {entry.id: entry for entry in standing}
    update = [entry for number, entry in kept.items() if entry != before[number]]
    return Plan(tuple(insert), tuple(update), tuple(close))


def _continues(entry: Standing, part: Standing, gaps: _Line) -> bool:
    """Tell whether a part carries on an entry: they touch, say the same, and no row lies between them."""
    if entry.state == "claimed" or not (entry.like(part) and entry.span.touches(part.span)):
        return False
    border = entry.span.end if entry.span.end == part.span.start else entry.span.start
    return part.state == "expired" or any(
        gap.span.start < border < gap.span.end for gap in gaps.near(Span(border, border))
    )


def _parts(
    entry: Standing, gaps: _Line, looked_at: tuple[_Line, Sequence[Span]], cadence_s: float
) -> list[Standing]:
    """Return what is left of an entry: where nobody looked, and where rows are still missing."""
    looks, backs = looked_at
    near = gaps.near(entry.span)
    seen = [look.span for look in looks.near(entry.span)]
    outside = [
        _cut(entry, piece, cadence_s)
        for piece in entry.span.without([*seen, *(gap.span for gap in near)])
        # Too short to be a gap before a look that has searched it for a row.
        if not any(piece.end == back.end and piece.start >= back.start for back in backs)
    ]
    inside = [
        _cut(gap, common, cadence_s) for gap in near if (common := gap.span.common(entry.span)) is not None
    ]
    merged: list[Standing] = []
    before: Standing | None = None
    for part in sorted((*outside, *inside), key=lambda one: one.span.start):
        # Where two gaps meet is a row. Where a gap meets time that nobody looked at is none.
        if (
            before
            and part.like(before)
            and part.span.touches(before.span)
            and not (part in inside and before in inside)
        ):
            merged[-1] = _cut(merged[-1], Span(merged[-1].span.start, part.span.end), cadence_s)
        else:
            merged.append(part)
        before = part
    if len(merged) == 1 and merged[0].span == entry.span and merged[0].like(entry):
        return [replace(merged[0], expected=_expected(entry, merged[0].span, gaps, cadence_s))]
    return merged


def _disjoint(found: Sequence[Standing], cadence_s: float) -> list[Standing]:
    """Return gaps of several looks as one list without overlaps."""
    result: list[Standing] = []
    for gap in sorted(found, key=lambda one: (one.span.start, one.span.end)):
        last = result[-1] if result else None
        if last is None or gap.span.start >= last.span.end:
            result.append(gap)
        elif gap.like(last):
            if gap.span.end > last.span.end:
                result[-1] = _cut(last, Span(last.span.start, gap.span.end), cadence_s)
        elif gap.span.end > last.span.end:
            result.append(_cut(gap, Span(last.span.end, gap.span.end), cadence_s))
    return result


def _expected(entry: Standing, span: Span, gaps: _Line, cadence_s: float) -> int:
    exact = next((gap.expected for gap in gaps.near(span) if gap.span == span), None)
    if exact is not None:
        return exact
    return entry.expected if entry.span == span else max(1, missing_between(span.start, span.end, cadence_s))


def _cut(entry: Standing, span: Span, cadence_s: float, gaps: _Line | None = None) -> Standing:
    """Return an entry with another span; the rows it lacks are those of a gap, or estimated by the length."""
    return replace(entry, span=span, expected=_expected(entry, span, gaps or _Line(()), cadence_s))
