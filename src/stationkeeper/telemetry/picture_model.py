"""What the picture of the coverage shows: for each device its rows by state, in whole and by bucket of time.

A row is present, recovered (present, and put there by a back-fill), explained (missing, and somebody knows
why) or open (missing). The states of a device always add up to what was expected of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from stationkeeper.telemetry.recovered import recovered_rows
from stationkeeper.telemetry.report import Coverage, Report
from stationkeeper.telemetry.source import BATCHES, has_table, snapshot

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

# More columns than this are narrower than the eye tells apart on a page's width.
_COLUMNS = 168
_STEPS = tuple(timedelta(minutes=count) for count in (5, 10, 15, 30, 60, 120, 180, 360, 720))
_DAY = timedelta(days=1)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Span:
    """Rows of one state, evenly spread between two moments that are not part of it."""

    start: datetime
    end: datetime
    rows: int

    def rows_in(self, first: datetime, last: datetime) -> int:
        """Return how many of the rows lie in [first, last); the pieces of a split window add up."""
        return self._before(last) - self._before(first)

    def _before(self, moment: datetime) -> int:
        # Row i of 1 to n lies at start + length * i / (n + 1).
        length = (self.end - self.start) // _MICROSECOND
        done = (moment - self.start) // _MICROSECOND * (self.rows + 1)
        return min(self.rows, max(0, -(-done // length) - 1)) if length > 0 else 0


@dataclass(frozen=True)
class Counts:
    """Numbers of rows by state."""

    present: int = 0
    recovered: int = 0
    explained: int = 0
    open: int = 0

    @property
    def expected(self) -> int:
        """Sum of the states."""
        return self.present + self.recovered + self.explained + self.open

    def of(self, state: str) -> int:
        """Return the number of one state."""
        return {
            "present": self.present,
            "recovered": self.recovered,
            "explained": self.explained,
            "open": self.open,
        }[state]

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.present + other.present,
            self.recovered + other.recovered,
            self.explained + other.explained,
            self.open + other.open,
        )


@dataclass(frozen=True)
class Cell:
    """One bucket of a line. ``due`` is the number of rows that the cadence asks for, 0 out of service."""

    due: float
    recovered: int
    explained: int
    open: int


@dataclass(frozen=True)
class Line:
    """A device, or all devices of a site: counts of the window, and a cell for each bucket."""

    name: str
    site: str
    counts: Counts
    cells: tuple[Cell, ...]

    @property
    def badness(self) -> tuple[int, int, int, str]:
        """Key that sorts the worst line first."""
        return (-self.counts.open, -self.counts.explained, -self.counts.recovered, self.name)


@dataclass(frozen=True)
class OpenGap:
    """A gap that nobody can explain. ``lasting`` says that no row follows."""

    device: str
    start: datetime
    end: datetime
    rows: int
    lasting: bool


@dataclass(frozen=True)
class Model:
    """All that is drawn. The buckets begin at ``start + n * step``; the first and last may be cut.

    ``devices`` and ``sites`` are sorted, the worst first; ``gaps`` by their rows; ``reasons`` are explained
    rows by explanation.
    """

    start: datetime
    end: datetime
    made_at: datetime
    first_bucket: datetime
    step: timedelta
    devices: tuple[Line, ...]
    sites: tuple[Line, ...]
    gaps: tuple[OpenGap, ...]
    reasons: tuple[tuple[str, int], ...]
    idle_sites: tuple[str, ...]

    @property
    def counts(self) -> Counts:
        """Sums of all devices."""
        return sum((line.counts for line in self.devices), Counts())


def build(report: Report, made_at: datetime, recovered: Mapping[str, Sequence[Span]] | None = None) -> Model:
    """Return the model of a report. ``recovered`` has, by device id, what back-fills have put there. Pure."""
    step = _step(
        report.settled_to - report.start, max((c.device.cadence_s for c in report.devices), default=1)
    )
    first = _floor(report.start, step)
    starts = [first]
    while starts[-1] + step < report.settled_to:
        starts.append(starts[-1] + step)
    buckets = [(max(start, report.start), min(start + step, report.settled_to)) for start in starts]
    devices = [
        _line(coverage, buckets, (recovered or {}).get(coverage.device.id, ())) for coverage in report.devices
    ]
    reasons: dict[str, int] = {}
    for coverage in report.devices:
        for gap in coverage.explained:
            assert gap.explanation is not None
            reasons[gap.explanation.text] = reasons.get(gap.explanation.text, 0) + gap.missing
    return Model(
        start=report.start,
        end=report.settled_to,
        made_at=made_at,
        first_bucket=first,
        step=step,
        devices=tuple(sorted(devices, key=lambda line: line.badness)),
        sites=tuple(sorted(_sites(devices), key=lambda line: line.badness)),
        gaps=tuple(
            sorted(
                (
                    OpenGap(coverage.device.name, gap.start, gap.end, gap.missing, gap.open)
                    for coverage in report.devices
                    for gap in coverage.gaps
                ),
                key=lambda gap: (-gap.rows, gap.device, gap.start),
            )
        ),
        reasons=tuple(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        idle_sites=report.idle_sites,
    )


def fetch_recovered(connection: Connection, report: Report, *, schema: str = "flux") -> dict[str, list[Span]]:
    """Return by device id the rows of back-fills that are in the report's window.

    A database that knows no back-fill yet has none. Raises TelemetryError for a database that fails.
    """
    with snapshot(connection, timeout_s=30) as cursor:
        if not has_table(cursor, schema, BATCHES):
            return {}
        found = recovered_rows(cursor, report, schema=schema)
    return {device: [Span(*batch) for batch in batches] for device, batches in found.items()}


def _step(length: timedelta, cadence_s: float) -> timedelta:
    """Return a bucket that the window has not too many of, and in which each device has a row."""
    least = max(length / _COLUMNS, timedelta(seconds=cadence_s))
    return next((step for step in _STEPS if step >= least), -(-least // _DAY) * _DAY)


def _floor(moment: datetime, step: timedelta) -> datetime:
    """Return the begin of the bucket: steps are counted from midnight UTC."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (moment - midnight) // step * step


def _line(
    coverage: Coverage, buckets: Sequence[tuple[datetime, datetime]], recovered: Sequence[Span]
) -> Line:
    cadence = timedelta(seconds=coverage.device.cadence_s)
    # The part of each bucket in which the device was in service; it may be empty.
    served = [(max(first, coverage.start), min(last, coverage.end)) for first, last in buckets]
    spread = (
        _spread(recovered, served),
        _spread([Span(gap.start, gap.end, gap.missing) for gap in coverage.explained], served),
        _spread([Span(gap.start, gap.end, gap.missing) for gap in coverage.gaps], served),
    )
    cells = tuple(
        Cell(max(0.0, (last - first) / cadence), *rows)
        for (first, last), *rows in zip(served, *spread, strict=True)
    )
    back = min(coverage.present, sum(spread[0]))
    counts = Counts(coverage.present - back, back, coverage.explained_missing, coverage.missing)
    return Line(coverage.device.name, coverage.device.site, counts, cells)


def _spread(spans: Iterable[Span], buckets: Sequence[tuple[datetime, datetime]]) -> list[int]:
    """Return how many rows of the spans lie in each bucket."""
    rows = [0] * len(buckets)
    ends = [last for _, last in buckets]
    for span in spans:
        for number in range(bisect_right(ends, span.start), len(buckets)):
            first, last = buckets[number]
            if first >= span.end:
                break
            if first < last:
                rows[number] += span.rows_in(first, last)
    return rows


def _sites(devices: Sequence[Line]) -> list[Line]:
    by_site: dict[str, list[Line]] = {}
    for line in devices:
        by_site.setdefault(line.site, []).append(line)
    return [
        Line(
            site,
            site,
            sum((line.counts for line in lines), Counts()),
            tuple(
                Cell(
                    sum(cell.due for cell in cells),
                    sum(cell.recovered for cell in cells),
                    sum(cell.explained for cell in cells),
                    sum(cell.open for cell in cells),
                )
                for cells in zip(*(line.cells for line in lines), strict=True)
            ),
        )
        for site, lines in by_site.items()
    ]
