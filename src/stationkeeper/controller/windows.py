"""Maintenance windows that repeat every week, in a time zone with its clock changes. Pure.

A window belongs to the local day on which it begins. A start or end that the clock skips is the first instant
after the jump; one that the clock shows twice is its first occurrence. So each window opens at most once a
day, and one that lies wholly within skipped time does not take place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Window:
    """``end`` at or before ``start`` lies on the next day; ``days`` are numbers, Monday is 0."""

    name: str
    days: frozenset[int]
    start: time
    end: time
    zone: tzinfo


@dataclass(frozen=True, slots=True)
class Span:
    """One opening of a window, in UTC: from ``start`` up to, and without, ``end``."""

    window: Window
    start: datetime
    end: datetime


def zone_of(name: str) -> tzinfo:
    """Return the time zone of an IANA name. Raises ValueError."""
    if name == "UTC":
        # Needs no tz data.
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"no time zone '{name}' in the tz data of this host; write a name like Europe/Rome, or install "
            "Debian's package tzdata"
        ) from None


def first_instant(day: date, at: time, zone: tzinfo) -> datetime:
    """Return the UTC instant at which a local clock first shows ``at`` of ``day``, or first passes it."""
    local = datetime.combine(day, at)
    first = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == local:
        return first
    # Skipped. The jump lies between the instants that the offsets after and before it give.
    before, after = local.replace(tzinfo=zone, fold=1).astimezone(UTC), first
    offset = before.astimezone(zone).utcoffset()
    while after - before > _SECOND:
        middle = before + (after - before) // 2
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after.replace(microsecond=0)


def _spans(window: Window, start: datetime, end: datetime) -> list[Span]:
    """Return the openings that begin on the local days from a week before ``start`` to after ``end``."""
    first = start.astimezone(window.zone).date() - timedelta(days=8)
    last_day = end.astimezone(window.zone).date() + timedelta(days=1)
    found = []
    for shift in range((last_day - first).days + 1):
        day = first + timedelta(days=shift)
        if day.weekday() not in window.days:
            continue
        last = day if window.end > window.start else day + timedelta(days=1)
        opens = first_instant(day, window.start, window.zone)
        closes = first_instant(last, window.end, window.zone)
        if opens < closes:
            found.append(Span(window, opens, closes))
    return found


def spans_between(windows: Sequence[Window], start: datetime, end: datetime) -> list[Span]:
    """Return the openings that overlap the time from ``start`` up to, and without, ``end``."""
    spans = [span for window in windows for span in _spans(window, start, end)]
    return [span for span in spans if span.start < end and span.end > start]


def open_span(windows: Sequence[Window], now: datetime) -> Span | None:
    """Return the opening in which a moment lies; of several, the one that ends last."""
    spans = [span for window in windows for span in _spans(window, now, now) if span.start <= now < span.end]
    return max(spans, key=lambda span: span.end, default=None)
