"""Cut a span into pieces that one transaction each can take. All spans include their start, not their end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

ROWS = 50_000
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Slice:
    """Time from ``start`` (part of it) to ``end`` (not part of it)."""

    start: datetime
    end: datetime

    @property
    def hours(self) -> Slice:
        """The whole hours (UTC) that hold the slice."""
        return Slice(floor(self.start, HOUR), floor(self.end - _MICROSECOND, HOUR) + HOUR)


def between(before: datetime, after: datetime) -> Slice:
    """Return the time between two rows, without either: PostgreSQL counts microseconds."""
    return Slice(before + _MICROSECOND, after)


def cut(span: Slice, cadence_s: float, *, rows: int = ROWS) -> Iterator[Slice]:
    """Yield the slices of a span, newest first.

    None crosses midnight UTC, where chunks of a day (or of whole days) end, and none is longer than ``rows``
    cadences. Cuts lie at fixed moments, so that a second run cuts alike.
    """
    step = min(DAY, timedelta(seconds=max(1, int(min(cadence_s * rows, DAY.total_seconds())))))
    end = span.end
    while span.start < end:
        midnight = floor(end - _MICROSECOND, DAY)
        start = max(span.start, midnight + (end - _MICROSECOND - midnight) // step * step)
        yield Slice(start, end)
        end = start


def floor(moment: datetime, step: timedelta) -> datetime:
    """Return the last multiple of ``step`` since 1970 (UTC) that is not after ``moment``."""
    return _EPOCH + (moment - _EPOCH) // step * step
