"""Rows of each device and hour, kept in a table, so that long windows are answered without every row.

The table is only ever believed about what is there: within an hour no two rows are further apart than it
says. Where it says nothing, or says that something is missing, the rows themselves are asked. So the gaps
found are those of a full sweep even if the table is behind; it is only slower then. Rows that came late into
a complete hour are missing in its count until the hour is refreshed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from stationkeeper.controller.windows import Window as WeeklyWindow
from stationkeeper.telemetry.explanations import Gap, fetch, horizons
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
    TelemetryError,
    aware,
    changing,
    check_tables,
    has_table,
    snapshot,
)
from stationkeeper.telemetry.sweep import MICROSECOND, Stretch, Window, walk, windows

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

HOUR = timedelta(hours=1)

# For each window: the hours that are complete in themselves, their rows, and the distances between them that
# are too long.
_PROVEN = """
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest(%(numbers)s::bigint[], %(ids)s::uuid[], %(a)s::timestamptz[],
                         %(b)s::timestamptz[], %(reach)s::interval[]) AS s (number, id, a, b, reach))
SELECT w.number, h.first, h.last, h.rows, h.holes
FROM asked w
CROSS JOIN LATERAL (
    SELECT min(q.first_time) AS first, max(q.last_time) AS last, sum(q.rows::integer) AS rows,
           array_agg(tstzrange(q.before, q.first_time))
               FILTER (WHERE q.first_time > q.before + w.reach) AS holes
    FROM (
        SELECT c.first_time, c.last_time, c.rows, first_value(c.last_time) OVER (
                   ORDER BY c.hour ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS before
        FROM {coverage} c
        WHERE c.device_id = w.id AND c.hour >= w.a AND c.hour <= w.b - interval '1 hour'
          AND c.widest <= w.reach) q) h
ORDER BY w.number
"""

# Only columns of the index: the readings of a device lie far apart in the table. A distance counts for an
# hour only if both its rows lie there.
_REFRESH = """
INSERT INTO {coverage} AS known
    (device_id, hour, rows, first_time, last_time, widest)
SELECT s.id, q.hour, count(*), min(q.time), max(q.time),
       coalesce(max(q.time - q.before) FILTER (WHERE q.before >= q.hour), interval '0')
FROM unnest(%(ids)s::uuid[], %(a)s::timestamptz[], %(b)s::timestamptz[]) AS s (id, a, b)
CROSS JOIN LATERAL (
    SELECT x.time, lag(x.time) OVER (ORDER BY x.time) AS before,
           date_bin(interval '1 hour', x.time, timestamptz '2000-01-01T00:00Z') AS hour
    FROM {readings} x
    WHERE x.device_id = s.id AND x.time >= s.a AND x.time < s.b
      AND x.time >= %(first)s AND x.time < %(last)s) q
GROUP BY s.id, q.hour
ON CONFLICT (device_id, hour) DO UPDATE SET
    rows = excluded.rows, first_time = excluded.first_time, last_time = excluded.last_time,
    widest = excluded.widest, refreshed_at = now()
WHERE (known.rows, known.first_time, known.last_time, known.widest)
      IS DISTINCT FROM
      (excluded.rows, excluded.first_time, excluded.last_time, excluded.widest)
"""


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
        _require_table(cursor, schema)
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

    Read again are only the hours about which the table leaves a question (none yet, or incomplete: late rows
    fall into what was missing), and all hours of the last ``lateness_s`` seconds. Hours that are not over
    yet, or whose readings were dropped, are left as they are. Raises TelemetryError.
    """
    start, end = aware(start), aware(end)
    with changing(connection, timeout_s=timeout_s) as cursor:
        check_tables(cursor, schema)
        _require_table(cursor, schema)
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
            spans = _unproven_hours(cursor, schema, asked, late)
            stretches += len(spans)
            hours += _refresh(cursor, schema, kind, spans)
        return Refreshed(stretches, hours)


def _covered(cursor: Cursor, schema: str, kind: str, asked: Sequence[Window], k: float) -> list[Coverage]:
    proven = _proven(cursor, schema, asked, k)
    stretches = [stretch for one in proven for stretch in one.questions]
    walks = iter(walk(cursor, schema, kind, stretches, k))
    found = []
    for window, one in zip(asked, proven, strict=True):
        present, gaps = one.rows, list[Gap]()
        for stretch in one.questions:
            answer = next(walks)
            present += answer.present
            # Most stretches end at a row, the last one where the window does.
            gaps += [replace(gap, open=gap.open and stretch.end == window.end) for gap in answer.gaps]
        span = (window.start, window.end)
        found.append(Coverage(window.device, *span, window.expected, present, tuple(gaps)))
    return found


@dataclass(frozen=True)
class _Proven:
    """Rows that the table vouches for in a window, and the stretches that the rows must be asked about."""

    rows: int
    questions: tuple[Stretch, ...]


def _proven(cursor: Cursor, schema: str, asked: Sequence[Window], k: float) -> list[_Proven]:
    from psycopg2 import sql

    if not asked:
        return []
    cursor.execute(
        sql.SQL(_PROVEN).format(coverage=sql.Identifier(schema, COVERAGE)),
        {
            "numbers": list(range(len(asked))),
            "ids": [window.device.id for window in asked],
            "a": [window.start for window in asked],
            "b": [window.end for window in asked],
            "reach": [timedelta(seconds=window.device.cadence_s * k) for window in asked],
        },
    )
    found = []
    for number, first, last, rows, holes in cursor.fetchall():
        window = asked[number]
        if first is None:
            found.append(_Proven(0, (Stretch(window.device, window.start, window.end),)))
            continue
        questions = [Stretch(window.device, window.start, first)]
        questions += [
            Stretch(window.device, hole.lower + MICROSECOND, hole.upper, hole.lower) for hole in holes or ()
        ]
        questions.append(Stretch(window.device, last + MICROSECOND, window.end, last))
        found.append(_Proven(rows, tuple(questions)))
    return found


def _unproven_hours(
    cursor: Cursor, schema: str, asked: Sequence[Window], late: datetime
) -> list[tuple[str, datetime, datetime]]:
    """Return whole hours to read: device, start, end; none twice."""
    spans: list[tuple[str, datetime, datetime]] = []
    for window, one in zip(asked, _proven(cursor, schema, asked, DEFAULT_K), strict=True):
        wanted = [
            (_floor(stretch.start), _ceil(stretch.end))
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
        spans += [(window.device.id, begin, end) for begin, end in merged]
    return spans


def _refresh(cursor: Cursor, schema: str, kind: str, spans: Sequence[tuple[str, datetime, datetime]]) -> int:
    from psycopg2 import sql

    if not spans:
        return 0
    cursor.execute(
        sql.SQL(_REFRESH).format(
            coverage=sql.Identifier(schema, COVERAGE), readings=sql.Identifier(schema, READINGS[kind])
        ),
        {
            "ids": [device for device, _, _ in spans],
            "a": [begin for _, begin, _ in spans],
            "b": [end for _, _, end in spans],
            "first": min(begin for _, begin, _ in spans),
            "last": max(end for _, _, end in spans),
        },
    )
    return cursor.rowcount


def _require_table(cursor: Cursor, schema: str) -> None:
    if not has_table(cursor, schema, COVERAGE):
        raise TelemetryError(f"{schema}.{COVERAGE} does not exist: run the migrations first")


def _floor(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _ceil(moment: datetime) -> datetime:
    floor = _floor(moment)
    return floor if floor == moment else floor + HOUR
