"""Walk along the rows of devices and find distances that are too long.

One ordered index-only scan for each stretch of a device's time, compared row by row with its predecessor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from stationkeeper.telemetry.explanations import Gap
from stationkeeper.telemetry.source import READINGS, REGISTRY, Device

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)

MICROSECOND = timedelta(microseconds=1)
_AT_ONCE = 128
_T = TypeVar("_T")

_REGISTRY = """
SELECT id::text, name, site, profile, extract(epoch FROM cadence)::float8,
       greatest(active_from, %(start)s) AS a, least(active_to, %(end)s) AS b,
       round(extract(epoch FROM least(active_to, %(end)s) - greatest(active_from, %(start)s))
             / extract(epoch FROM cadence))::bigint
FROM {registry}
WHERE type = %(type)s AND active_from < %(end)s AND coalesce(active_to, 'infinity') > %(start)s
  AND (%(sites)s::text[] IS NULL OR site = ANY (%(sites)s::text[]))
ORDER BY site, name
"""

# Materialized: the planner would otherwise compute the reach anew for every row. The plain comparison of time
# with constants lets it leave chunks out. `first_value` over two rows is the predecessor, at less cost than
# `lag`. The reach has no days, so no clock change can stretch it.
_WALK = """
WITH stretch AS MATERIALIZED (
    SELECT s.number, s.id, s.a, s.b, make_interval(secs => s.reach_s) AS reach,
           coalesce(s.lead,
                    (SELECT max(x.time) FROM {readings} x
                      WHERE x.device_id = s.id AND x.time < s.a
                        AND x.time >= s.a - make_interval(secs => s.reach_s)),
                    s.a - make_interval(secs => s.cadence_s)) AS lead
    FROM unnest(%(numbers)s::bigint[], %(ids)s::uuid[], %(a)s::timestamptz[], %(b)s::timestamptz[],
                %(lead)s::timestamptz[], %(cadence_s)s::float8[], %(reach_s)s::float8[])
         AS s (number, id, a, b, lead, cadence_s, reach_s))
SELECT w.number, w.lead, w.reach, walk.first, walk.last, walk.present, walk.before, walk.after
FROM stretch w
CROSS JOIN LATERAL (
    SELECT count(*) AS present, min(q.t) AS first, max(q.t) AS last,
           array_agg(q.prev) FILTER (WHERE q.t > q.prev + w.reach) AS before,
           array_agg(q.t) FILTER (WHERE q.t > q.prev + w.reach) AS after
    FROM (
        SELECT x.time AS t, first_value(x.time) OVER (
                   ORDER BY x.time ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS prev
        FROM {readings} x
        WHERE x.device_id = w.id AND x.time >= w.a AND x.time < w.b
          AND x.time >= %(first)s AND x.time < %(last)s) q) walk
ORDER BY w.number
"""


@dataclass(frozen=True)
class Window:
    """The time of a device that is looked at, [start, end), and the rows that its cadence asks for."""

    device: Device
    start: datetime
    end: datetime
    expected: int


@dataclass(frozen=True)
class Stretch:
    """A part of a device's time to walk along: the rows in [start, end), after the row at ``lead``.

    ``lead`` None: the last row within reach before the start, or one cadence before the start.
    """

    device: Device
    start: datetime
    end: datetime
    lead: datetime | None = None


@dataclass(frozen=True)
class Walk:
    """Rows of a stretch and the distances in it that are too long."""

    present: int
    gaps: tuple[Gap, ...]


def windows(
    cursor: Cursor,
    schema: str,
    kind: str,
    start: datetime,
    end: datetime,
    *,
    sites: Sequence[str] | None,
) -> list[Window]:
    """Return the devices of a kind that were in service in [start, end), each with its own part of it."""
    from psycopg2 import sql

    cursor.execute(
        sql.SQL(_REGISTRY).format(registry=sql.Identifier(schema, REGISTRY)),
        {"start": start, "end": end, "type": kind, "sites": list(sites) if sites else None},
    )
    return [
        Window(
            Device(identifier, name, site, kind, profile, cadence_s),
            first.astimezone(UTC),
            last.astimezone(UTC),
            expected,
        )
        for identifier, name, site, profile, cadence_s, first, last, expected in cursor
    ]


def missing_between(start: datetime, end: datetime, cadence_s: float) -> int:
    """Return how many rows a distance lacks: its length in cadences, rounded half up, minus one. Pure."""
    length, cadence = (end - start) // MICROSECOND, round(cadence_s * 1_000_000)
    return max(0, (2 * length + cadence) // (2 * cadence) - 1)


def batches(items: Sequence[_T], start: Callable[[_T], datetime]) -> Iterator[list[_T]]:
    """Yield the items in the order of their ``start``, some at a time. Pure.

    A statement about neighbours in time needs few chunks, and leaves the others out when it is planned: to
    leave them out for each of its rows costs more than to look at one.
    """
    ordered = sorted(items, key=start)
    for first in range(0, len(ordered), _AT_ONCE):
        yield ordered[first : first + _AT_ONCE]


def walk(cursor: Cursor, schema: str, kind: str, stretches: Sequence[Stretch], k: float) -> list[Walk]:
    """Return for each stretch, all of one kind of device, rows and gaps of more than ``k`` cadences."""
    found: dict[int, Walk] = {}
    for batch in batches(list(enumerate(stretches)), start=lambda one: one[1].start):
        numbers, some = zip(*batch, strict=True)
        found |= zip(numbers, _walk(cursor, schema, kind, some, k), strict=True)
    return [found[number] for number in range(len(stretches))]


def _walk(cursor: Cursor, schema: str, kind: str, stretches: Sequence[Stretch], k: float) -> list[Walk]:
    from psycopg2 import sql

    query = sql.SQL(_WALK).format(readings=sql.Identifier(schema, READINGS[kind]))
    cursor.execute(
        query,
        {
            "numbers": list(range(len(stretches))),
            "ids": [stretch.device.id for stretch in stretches],
            "a": [stretch.start for stretch in stretches],
            "b": [stretch.end for stretch in stretches],
            "lead": [stretch.lead for stretch in stretches],
            "cadence_s": [stretch.device.cadence_s for stretch in stretches],
            "reach_s": [stretch.device.cadence_s * k for stretch in stretches],
            "first": min(stretch.start for stretch in stretches),
            "last": max(stretch.end for stretch in stretches),
        },
    )
    return [
        Walk(present, tuple(_gaps(stretches[number], lead, reach, (first, last), spans(before, after))))
        for number, lead, reach, first, last, present, before, after in cursor.fetchall()
    ]


def spans(
    before: Sequence[datetime] | None, after: Sequence[datetime] | None
) -> list[tuple[datetime, datetime]]:
    """Return the distances of two columns of an answer, in UTC; the database has null for none. Pure.

    Two arrays of times cost a third of one array of ranges, which psycopg2 takes apart in Python.
    """
    pairs = zip(before or (), after or (), strict=True)
    return [(start.astimezone(UTC), end.astimezone(UTC)) for start, end in pairs]


def _gaps(
    stretch: Stretch,
    lead: datetime,
    reach: timedelta,
    edges: tuple[datetime | None, datetime | None],
    holes: Sequence[tuple[datetime, datetime]],
) -> Iterator[Gap]:
    """Yield the gaps in order: before the first row, between rows, after the last one."""
    first, last = edges
    found = list(holes)
    if (first or stretch.end) - lead > reach:
        found.insert(0, (lead.astimezone(UTC), (first or stretch.end).astimezone(UTC)))
    if last is not None and stretch.end - last > reach:
        found.append((last.astimezone(UTC), stretch.end.astimezone(UTC)))
    for start, end in found:
        missing = missing_between(start, end, stretch.device.cadence_s)
        yield Gap(start, end, missing, end == stretch.end)
