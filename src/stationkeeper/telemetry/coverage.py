"""Rows of each device and hour, kept in a table, so that long windows are answered without every row.

The table is only ever believed about what was there: rows are not taken away, so a distance that was short
stays so. Where it knows of a hole, or of nothing, the rows themselves are asked. So the gaps found are those
of a full sweep even if the table is behind; it is only slower then. Rows that came late are missing in its
count where they fell into no hole, until the hour is refreshed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from stationkeeper.controller.windows import Window as WeeklyWindow
from stationkeeper.telemetry.coverage_hours import ask, require_table
from stationkeeper.telemetry.explanations import fetch, horizons
from stationkeeper.telemetry.gaps import (
    DEFAULT_K,
    DEFAULT_SETTLE_S,
    database_now,
    explained,
    idle_sites,
    settle,
)
from stationkeeper.telemetry.report import Coverage, Report
from stationkeeper.telemetry.source import (
    COVERAGE,
    READINGS,
    Device,
    aware,
    changing,
    check_tables,
    snapshot,
)
from stationkeeper.telemetry.sweep import MICROSECOND, Window, walk, windows

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

HOUR = timedelta(hours=1)

# Only columns of the index: the readings of a device lie far apart in the table. A distance is the hour's
# own only if both its rows lie there. The row before a stretch is the last one that the table knows, not the
# last one there is: so rows between the two stay a question until their hours are refreshed.
_REFRESH = """
INSERT INTO {coverage} AS known
    (device_id, hour, rows, first_time, last_time, widest, steady, holes, apart)
SELECT h.id, h.hour, h.rows, h.first_time, h.last_time, h.widest,
       CASE WHEN h.number <= %(most)s THEN h.steady ELSE h.widest END,
       CASE WHEN h.number <= %(most)s THEN h.holes ELSE '{{}}' END,
       CASE WHEN h.before < h.first_time THEN greatest(h.widest, h.first_time - h.before) END
FROM (
    SELECT s.id, q.hour, count(*) AS rows, min(q.time) AS first_time, max(q.time) AS last_time,
           min(q.before) AS before,
           coalesce(max(q.time - q.before) FILTER (WHERE q.before >= q.hour), interval '0') AS widest,
           coalesce(max(q.time - q.before) FILTER (WHERE q.before >= q.hour AND q.time <= q.before + s.reach),
                    interval '0') AS steady,
           count(*) FILTER (WHERE q.before >= q.hour AND q.time > q.before + s.reach) AS number,
           coalesce(array_agg(tstzrange(q.before, q.time))
                        FILTER (WHERE q.before >= q.hour AND q.time > q.before + s.reach),
                    '{{}}') AS holes
    FROM (
        SELECT s.id, s.a, s.b, make_interval(secs => s.reach_s) AS reach,
               (SELECT c.last_time FROM {coverage} c WHERE c.device_id = s.id AND c.hour < s.a
                ORDER BY c.hour DESC LIMIT 1) AS lead
        FROM unnest(%(ids)s::uuid[], %(a)s::timestamptz[], %(b)s::timestamptz[], %(reach_s)s::float8[])
             AS s (id, a, b, reach_s)) s
    CROSS JOIN LATERAL (
        SELECT x.time, lag(x.time, 1, s.lead) OVER (ORDER BY x.time) AS before,
               date_bin(interval '1 hour', x.time, timestamptz '2000-01-01T00:00Z') AS hour
        FROM {readings} x
        WHERE x.device_id = s.id AND x.time >= s.a AND x.time < s.b
          AND x.time >= %(first)s AND x.time < %(last)s) q
    GROUP BY s.id, q.hour) h
ON CONFLICT (device_id, hour) DO UPDATE SET
    rows = excluded.rows, first_time = excluded.first_time, last_time = excluded.last_time,
    widest = excluded.widest, steady = excluded.steady, holes = excluded.holes, apart = excluded.apart,
    refreshed_at = now()
WHERE (known.rows, known.first_time, known.last_time, known.widest, known.steady, known.holes, known.apart)
      IS DISTINCT FROM (excluded.rows, excluded.first_time, excluded.last_time, excluded.widest,
                        excluded.steady, excluded.holes, excluded.apart)
"""
# An hour with more holes than that is read row by row.
_MOST_HOLES = 30


@dataclass(frozen=True)
class Refreshed:
    """What a refresh read and wrote: stretches of devices, hours that were new or changed."""

    stretches: int
    hours: int


def find_gaps_by_hours(
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
    """Return what `find_gaps` returns, from the hourly table, and from rows where it leaves questions.

    Raises TelemetryError like it, and when there is no such table.
    """
    start, end = aware(start), aware(end)
    with snapshot(connection, timeout_s=timeout_s) as cursor:
        settled_to = settle(cursor, start, end, sites=sites, k=k, settle_s=settle_s, schema=schema)
        require_table(cursor, schema)
        devices: list[Coverage] = []
        for kind in READINGS:
            asked = windows(cursor, schema, kind, start, settled_to, sites=sites)
            devices += _covered(cursor, schema, kind, asked, k)
        explanations = fetch(cursor, schema, start, settled_to, weekly or {})
    found = Report(start, end, settled_to, k, tuple(devices), idle_sites(devices, sites))
    return explained(found, explanations)


def refresh(
    connection: Connection,
    start: datetime,
    end: datetime,
    *,
    lateness_s: float = 6 * 3600.0,
    settle_s: float = DEFAULT_SETTLE_S,
    sites: Sequence[str] | None = None,
    schema: str = "flux",
    timeout_s: float = 600.0,
) -> Refreshed:
    """Bring the table up to date for [start, end), and return how much that was.

    Read again are only the hours about which the table leaves a question (none yet, or rows have come into
    a hole that it knows), and all hours of the last ``lateness_s`` seconds. Hours that are not over
    yet, or whose readings were dropped, are left as they are. Raises TelemetryError.
    """
    start, end = aware(start), aware(end)
    with changing(connection, timeout_s=timeout_s) as cursor:
        check_tables(cursor, schema)
        require_table(cursor, schema)
        now = database_now(cursor)
        settled = _floor(min(end, now - timedelta(seconds=settle_s)))
        late = _floor(now - timedelta(seconds=lateness_s))
        dropped = horizons(cursor, schema)
        stretches = hours = 0
        for kind in READINGS:
            begin = max(start, _ceil(dropped[kind])) if kind in dropped else start
            if begin >= settled:
                continue
            asked = windows(cursor, schema, kind, begin, settled, sites=sites)
            spans = _unproven_hours(cursor, schema, kind, asked, late)
            stretches += len(spans)
            hours += _refresh(cursor, schema, kind, spans)
        return Refreshed(stretches, hours)


def _covered(cursor: Cursor, schema: str, kind: str, asked: Sequence[Window], k: float) -> list[Coverage]:
    known = ask(cursor, schema, kind, asked, k)
    stretches = [stretch for one in known for stretch in one.questions]
    walks = iter(walk(cursor, schema, kind, stretches, k))
    found = []
    for window, one in zip(asked, known, strict=True):
        present, gaps = one.rows, list(one.gaps)
        for stretch in one.questions:
            answer = next(walks)
            present += answer.present
            # Most stretches end at a row, the last one where the window does.
            gaps += [replace(gap, open=gap.open and stretch.end == window.end) for gap in answer.gaps]
        gaps.sort(key=lambda gap: gap.start)
        span = (window.start, window.end)
        found.append(Coverage(window.device, *span, window.expected, present, tuple(gaps)))
    return found


def _unproven_hours(
    cursor: Cursor, schema: str, kind: str, asked: Sequence[Window], late: datetime
) -> list[tuple[Device, datetime, datetime]]:
    """Return whole hours to read: device, start, end; none twice."""
    spans: list[tuple[Device, datetime, datetime]] = []
    for window, one in zip(asked, ask(cursor, schema, kind, asked, DEFAULT_K), strict=True):
        # The hour of the row after a stretch, too: it tells how far that row is from the one before it.
        wanted = [
            (_floor(stretch.start), min(_ceil(stretch.end + MICROSECOND), _ceil(window.end)))
            for stretch in one.questions
            if stretch.start < stretch.end
        ]
        wanted.append((max(late, _floor(window.start)), _ceil(window.end)))
        merged: list[tuple[datetime, datetime]] = []
        for begin, end in sorted((begin, end) for begin, end in wanted if begin < end):
            if merged and begin <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], end))
            else:
                merged.append((begin, end))
        spans += [(window.device, begin, end) for begin, end in merged]
    return spans


def _refresh(
    cursor: Cursor, schema: str, kind: str, spans: Sequence[tuple[Device, datetime, datetime]]
) -> int:
    from psycopg2 import sql

    if not spans:
        return 0
    cursor.execute(
        sql.SQL(_REFRESH).format(
            coverage=sql.Identifier(schema, COVERAGE), readings=sql.Identifier(schema, READINGS[kind])
        ),
        {
            "ids": [device.id for device, _, _ in spans],
            "a": [begin for _, begin, _ in spans],
            "b": [end for _, _, end in spans],
            "reach_s": [device.cadence_s * DEFAULT_K for device, _, _ in spans],
            "most": _MOST_HOLES,
            "first": min(begin for _, begin, _ in spans),
            "last": max(end for _, _, end in spans),
        },
    )
    return cursor.rowcount


def _floor(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _ceil(moment: datetime) -> datetime:
    floor = _floor(moment)
    return floor if floor == moment else floor + HOUR
