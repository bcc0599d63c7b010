"""Find missing telemetry: for each device of the registry, by its own cadence, as intervals.

The rows of a device are compared with their predecessor. A distance above ``k`` cadences is a gap, so jitter
is none. A sentinel on each side of the window finds gaps at its edges and devices that sent nothing at all.
Gaps that somebody can explain (`explanations`) are counted apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from stationkeeper.controller.windows import Window
from stationkeeper.telemetry.explanations import Explanations, Gap, fetch, split
from stationkeeper.telemetry.source import (
    READINGS,
    REGISTRY,
    Device,
    TelemetryError,
    aware,
    check_sites,
    check_tables,
    rfc3339,
    snapshot,
)

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

DEFAULT_K = 1.5
# Upload interval, latency of a batch and tolerance of the clocks: younger rows may still be on their way.
DEFAULT_SETTLE_S = 60.0

# The plain comparison of time with the window's constants lets the planner leave chunks out.
_QUERY = """
WITH dev AS (
    SELECT id, name, site, profile, cadence,
           greatest(active_from, %(start)s) AS a,
           least(coalesce(active_to, 'infinity'), %(end)s) AS b
    FROM {registry}
    WHERE type = %(type)s AND active_from < %(end)s AND coalesce(active_to, 'infinity') > %(start)s
      AND (%(sites)s::text[] IS NULL OR site = ANY (%(sites)s::text[])))
SELECT d.id::text, d.name, d.site, d.profile, extract(epoch FROM d.cadence)::float8, d.a, d.b,
       round(extract(epoch FROM d.b - d.a) / extract(epoch FROM d.cadence))::bigint AS expected,
       (SELECT count(*) FROM {readings} x
         WHERE x.device_id = d.id AND x.time >= d.a AND x.time < d.b
           AND x.time >= %(start)s AND x.time < %(end)s) AS present,
       g.prev, g.t,
       greatest(0, round(extract(epoch FROM g.t - g.prev) / extract(epoch FROM d.cadence)) - 1)::bigint
FROM dev d LEFT JOIN LATERAL (
    SELECT t, prev FROM (
        SELECT t, lag(t) OVER (ORDER BY t) AS prev FROM (
            (SELECT coalesce(
                (SELECT max(x.time) FROM {readings} x
                  WHERE x.device_id = d.id AND x.time < d.a AND x.time >= d.a - d.cadence * %(k)s),
                d.a - d.cadence) AS t)
            UNION ALL
            (SELECT x.time FROM {readings} x
              WHERE x.device_id = d.id AND x.time >= d.a AND x.time < d.b
                AND x.time >= %(start)s AND x.time < %(end)s)
            UNION ALL
            (SELECT d.b)) s) q
    WHERE q.t - q.prev > d.cadence * %(k)s) g ON true
ORDER BY d.site, d.name, g.prev
"""


@dataclass(frozen=True)
class Coverage:
    """One device: rows expected by its cadence, rows there, and the gaps. The times are the asked span.

    ``gaps`` are those that nobody can explain, ``explained`` the others.
    """

    device: Device
    start: datetime
    end: datetime
    expected: int
    present: int
    gaps: tuple[Gap, ...]
    explained: tuple[Gap, ...] = ()

    @property
    def missing(self) -> int:
        """Estimated number of rows in the unexplained gaps."""
        return sum(gap.missing for gap in self.gaps)

    @property
    def explained_missing(self) -> int:
        """Estimated number of rows in the explained gaps."""
        return sum(gap.missing for gap in self.explained)

    @property
    def state(self) -> str:
        """``complete``, ``explained`` (no other gap), ``gaps``, or ``silent``: gaps and not a single row."""
        if not self.gaps:
            return "explained" if self.explained else "complete"
        return "gaps" if self.present else "silent"


@dataclass(frozen=True)
class Report:
    """The answer for a window. ``settled_to`` is where it ended, now minus the settling time at most."""

    start: datetime
    end: datetime
    settled_to: datetime
    k: float
    devices: tuple[Coverage, ...]
    #: Sites that were asked for and have no active device in the window: nothing was looked at there.
    idle_sites: tuple[str, ...] = ()

    @property
    def gaps(self) -> int:
        """Number of unexplained gaps of all devices."""
        return sum(len(coverage.gaps) for coverage in self.devices)

    @property
    def missing(self) -> int:
        """Estimated number of rows missing in the unexplained gaps of all devices."""
        return sum(coverage.missing for coverage in self.devices)

    @property
    def explained_gaps(self) -> int:
        """Number of explained gaps of all devices."""
        return sum(len(coverage.explained) for coverage in self.devices)

    @property
    def explained_missing(self) -> int:
        """Estimated number of rows missing in the explained gaps of all devices."""
        return sum(coverage.explained_missing for coverage in self.devices)

    def of_site(self, site: str) -> list[Coverage]:
        """Return the devices of one site."""
        return [coverage for coverage in self.devices if coverage.device.site == site]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data with times as RFC 3339 text in UTC."""
        return {
            "from": rfc3339(self.start),
            "to": rfc3339(self.end),
            "settled_to": rfc3339(self.settled_to),
            "k": self.k,
            "gaps": self.gaps,
            "missing": self.missing,
            "explained_gaps": self.explained_gaps,
            "explained_missing": self.explained_missing,
            "expected": sum(coverage.expected for coverage in self.devices),
            "present": sum(coverage.present for coverage in self.devices),
            "idle_sites": list(self.idle_sites),
            "devices": [
                {
                    **asdict(coverage.device),
                    "from": rfc3339(coverage.start),
                    "to": rfc3339(coverage.end),
                    "state": coverage.state,
                    "expected": coverage.expected,
                    "present": coverage.present,
                    "missing": coverage.missing,
                    "explained_missing": coverage.explained_missing,
                    "gaps": [gap.as_dict() for gap in coverage.gaps],
                    "explained": [gap.as_dict() for gap in coverage.explained],
                }
                for coverage in self.devices
            ],
        }


def find_gaps(
    connection: Connection,
    start: datetime,
    end: datetime,
    *,
    sites: Sequence[str] | None = None,
    k: float = DEFAULT_K,
    settle_s: float = DEFAULT_SETTLE_S,
    schema: str = "flux",
    weekly: Mapping[str, Sequence[Window]] | None = None,
    timeout_s: float = 30.0,
) -> Report:
    """Return the coverage of every registered device that was active in [start, end).


    ``k`` is the distance, in cadences, above which two rows have a gap between them. The window ends
    ``settle_s`` seconds before the database's now at the latest. Raises TelemetryError for times without an
    offset, an empty window, an empty registry, an unknown site, and a database that fails. ``weekly`` holds
    the weekly maintenance windows by site; planned maintenance and known gaps stand in the database.
    """
    start, end = aware(start), aware(end)
    if not 1 < k < 1000:
        raise TelemetryError(f"k is {k:g}; a gap is more than one cadence, so it must be above 1")
    if settle_s < 0:
        raise TelemetryError(f"the settling time is {settle_s:g} s; it cannot be negative")
    with snapshot(connection, timeout_s=timeout_s) as cursor:
        check_tables(cursor, schema)
        check_sites(cursor, schema, sites)
        settled_to = min(end, _now(cursor) - timedelta(seconds=settle_s))
        if start >= settled_to:
            raise TelemetryError(
                f"the window {rfc3339(start)} to {rfc3339(end)} is empty: it ends before it begins, or less "
                f"than {settle_s:g} s (the settling time) of it have passed"
            )
        devices: list[Coverage] = []
        for kind, table in READINGS.items():
            values = {
                "start": start,
                "end": settled_to,
                "k": k,
                "type": kind,
                "sites": list(sites) if sites else None,
            }
            devices += _ask(cursor, schema, table, values)
        explanations = fetch(cursor, schema, start, settled_to, weekly or {})
    devices = [_explained(coverage, explanations, k) for coverage in devices]
    devices.sort(key=lambda coverage: (coverage.device.site, coverage.device.name))
    idle = set(sites or ()) - {coverage.device.site for coverage in devices}
    return Report(start, end, settled_to, k, tuple(devices), tuple(sorted(idle)))


def _ask(cursor: Cursor, schema: str, table: str, values: dict[str, Any]) -> list[Coverage]:
    from psycopg2 import sql

    query = sql.SQL(_QUERY).format(
        registry=sql.Identifier(schema, REGISTRY), readings=sql.Identifier(schema, table)
    )
    cursor.execute(query, values)
    found: dict[str, Coverage] = {}
    gaps: dict[str, list[Gap]] = {}
    for (
        identifier,
        name,
        site,
        profile,
        cadence_s,
        first,
        last,
        expected,
        present,
        prev,
        t,
        missing,
    ) in cursor.fetchall():
        device = Device(identifier, name, site, values["type"], profile, cadence_s)
        found[identifier] = Coverage(
            device, first.astimezone(UTC), last.astimezone(UTC), expected, present, ()
        )
        if t is not None:
            gap = Gap(prev.astimezone(UTC), t.astimezone(UTC), missing, t == last)
            gaps.setdefault(identifier, []).append(gap)
    return [
        Coverage(c.device, c.start, c.end, c.expected, c.present, tuple(gaps.get(identifier, ())))
        for identifier, c in found.items()
    ]


def _explained(coverage: Coverage, explanations: Explanations, k: float) -> Coverage:
    """Set the gaps apart that somebody can explain."""
    device = coverage.device
    known = explanations.of(device.site, device.id)
    if not known:
        return coverage
    slack = timedelta(seconds=(k - 1) * device.cadence_s)
    pieces = [piece for gap in coverage.gaps for piece in split(gap, known, slack=slack)]
    return replace(
        coverage,
        gaps=tuple(piece for piece in pieces if piece.explanation is None),
        explained=tuple(piece for piece in pieces if piece.explanation is not None),
    )


def _now(cursor: Cursor) -> datetime:
    """The database's clock, which the rows of all stations are judged by."""
    cursor.execute("SELECT now()")
    row = cursor.fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment.astimezone(UTC)
