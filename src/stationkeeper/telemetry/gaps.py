"""Find missing telemetry: for each device of the registry, by its own cadence, as intervals.

The rows of a device are compared with their predecessor. A distance above ``k`` cadences is a gap, so jitter
is none. A sentinel on each side of the window finds gaps at its edges and devices that sent nothing at all.
Gaps that somebody can explain (`explanations`) are counted apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from stationkeeper.controller.windows import Window as WeeklyWindow
from stationkeeper.telemetry.explanations import Explanations, fetch, split
from stationkeeper.telemetry.report import Coverage, Report
from stationkeeper.telemetry.source import (
    READINGS,
    TelemetryError,
    aware,
    check_sites,
    check_tables,
    rfc3339,
    snapshot,
)
from stationkeeper.telemetry.sweep import Stretch, walk, windows

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

__all__ = ["DEFAULT_K", "DEFAULT_SETTLE_S", "Coverage", "Report", "find_gaps"]

DEFAULT_K = 1.5
# Upload interval, latency of a batch and tolerance of the clocks: younger rows may still be on their way.
DEFAULT_SETTLE_S = 60.0


def find_gaps(
    connection: Connection,
    start: datetime,
    end: datetime,
    *,
    sites: Sequence[str] | None = None,
    k: float = DEFAULT_K,
    settle_s: float = DEFAULT_SETTLE_S,
    schema: str = "flux",
    weekly: Mapping[str, Sequence[WeeklyWindow]] | None = None,
    timeout_s: float = 300.0,
) -> Report:
    """Return the coverage of every registered device that was active in [start, end), from every row.

    ``k`` is the distance, in cadences, above which two rows have a gap between them. The window ends
    ``settle_s`` seconds before the database's now at the latest. Raises TelemetryError for times without an
    offset, an empty window, an empty registry, an unknown site, and a database that fails. ``weekly`` holds
    the weekly maintenance windows by site; planned maintenance and known gaps stand in the database.
    """
    start, end = aware(start), aware(end)
    with snapshot(connection, timeout_s=timeout_s) as cursor:
        settled_to = settle(cursor, start, end, sites=sites, k=k, settle_s=settle_s, schema=schema)
        devices: list[Coverage] = []
        for kind in READINGS:
            asked = windows(cursor, schema, kind, start, settled_to, sites=sites)
            walks = walk(cursor, schema, kind, [Stretch(w.device, w.start, w.end) for w in asked], k)
            devices += [
                Coverage(w.device, w.start, w.end, w.expected, one.present, one.gaps)
                for w, one in zip(asked, walks, strict=True)
            ]
        explanations = fetch(cursor, schema, start, settled_to, weekly or {})
    found = Report(start, end, settled_to, k, tuple(devices), idle_sites(devices, sites))
    return explained(found, explanations)


def settle(
    cursor: Cursor,
    start: datetime,
    end: datetime,
    *,
    sites: Sequence[str] | None,
    k: float,
    settle_s: float,
    schema: str,
) -> datetime:
    """Return where a window ends that is asked for up to ``end``.

    Raises TelemetryError for an answer that could not be true.
    """
    if not 1 < k < 1000:
        raise TelemetryError(f"k is {k:g}; a gap is more than one cadence, so it must be above 1")
    if settle_s < 0:
        raise TelemetryError(f"the settling time is {settle_s:g} s; it cannot be negative")
    check_tables(cursor, schema)
    check_sites(cursor, schema, sites)
    settled_to = min(end, database_now(cursor) - timedelta(seconds=settle_s))
    if start >= settled_to:
        raise TelemetryError(
            f"the window {rfc3339(start)} to {rfc3339(end)} is empty: it ends before it begins, or less "
            f"than {settle_s:g} s (the settling time) of it have passed"
        )
    return settled_to


def explained(found: Report, explanations: Explanations) -> Report:
    """Return a report, sorted, with the gaps set apart that somebody can explain. Pure."""
    return replace(
        found,
        devices=tuple(
            sorted(
                (explain(coverage, explanations, found.k) for coverage in found.devices),
                key=lambda coverage: (coverage.device.site, coverage.device.name),
            )
        ),
        rechecked=tuple(explain(coverage, explanations, found.k) for coverage in found.rechecked),
    )


def idle_sites(devices: Sequence[Coverage], sites: Sequence[str] | None) -> tuple[str, ...]:
    """Return the sites that were asked for and have no device in service. Pure."""
    return tuple(sorted(set(sites or ()) - {coverage.device.site for coverage in devices}))


def explain(coverage: Coverage, explanations: Explanations, k: float) -> Coverage:
    """Return the coverage with the gaps set apart that somebody can explain. Pure."""
    device = coverage.device
    known = explanations.of(device)
    if not known:
        return coverage
    slack = timedelta(seconds=(k - 1) * device.cadence_s)
    pieces = [piece for gap in coverage.gaps for piece in split(gap, known, slack=slack)]
    return replace(
        coverage,
        gaps=tuple(piece for piece in pieces if piece.explanation is None),
        explained=tuple(piece for piece in pieces if piece.explanation is not None),
    )


def database_now(cursor: Cursor) -> datetime:
    """Return the database's clock, which the rows of all stations are judged by."""
    cursor.execute("SELECT now()")
    row = cursor.fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment.astimezone(UTC)
