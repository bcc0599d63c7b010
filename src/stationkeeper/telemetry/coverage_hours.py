"""What the hourly table knows about windows: rows, gaps that are certain, and what to ask the rows about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from stationkeeper.telemetry.explanations import Gap
from stationkeeper.telemetry.source import COVERAGE, READINGS, TelemetryError, has_table
from stationkeeper.telemetry.sweep import (
    MICROSECOND,
    Stretch,
    Window,
    batches,
    missing_between,
    spans,
)

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)

# For each window: the rows of its whole hours, where they begin and end, and the distances between rows that
# are too long. What an hour without a question needs stands in the index. Of an hour that has more holes than
# the table lists, only the first and the last row count, and what is between them is one distance.
_HOURS = """
WITH asked AS MATERIALIZED (
    SELECT s.number, s.id, s.a, s.b, make_interval(secs => s.reach_s) AS reach
    FROM unnest(%(numbers)s::bigint[], %(ids)s::uuid[], %(a)s::timestamptz[], %(b)s::timestamptz[],
                %(reach_s)s::float8[]) AS s (number, id, a, b, reach_s))
SELECT w.number, (h.rows - coalesce(q.unlisted, 0))::bigint,
       (SELECT c.first_time FROM {coverage} c WHERE c.device_id = w.id AND c.hour = h.first),
       (SELECT c.last_time FROM {coverage} c WHERE c.device_id = w.id AND c.hour = h.last),
       q.before, q.after
FROM asked w
CROSS JOIN LATERAL (
    SELECT sum(c.rows::integer) AS rows, min(c.hour) AS first, max(c.hour) AS last,
           array_agg(c.hour) FILTER (WHERE (c.apart <= w.reach) IS NOT TRUE) AS hours
    FROM {coverage} c
    WHERE c.device_id = w.id AND c.hour >= w.a AND c.hour <= w.b - interval '1 hour') h
CROSS JOIN LATERAL (
    SELECT sum(d.unlisted) AS unlisted, array_agg(d.before) AS before, array_agg(d.after) AS after
    FROM {coverage} c
    CROSS JOIN LATERAL (
        (SELECT p.last_time, c.first_time, 0 FROM {coverage} p
         WHERE p.device_id = w.id AND p.hour >= w.a AND p.hour < c.hour ORDER BY p.hour DESC LIMIT 1)
        UNION ALL
        SELECT lower(r), upper(r), 0 FROM unnest(c.holes) r WHERE c.steady <= w.reach
        UNION ALL
        SELECT c.first_time, c.last_time, c.rows - 2 WHERE c.steady > w.reach) d (before, after, unlisted)
    WHERE c.device_id = w.id AND c.hour = ANY (h.hours) AND d.after > d.before + w.reach) q
ORDER BY w.number
"""

# Whether there is a row between two others. In the list of columns, so that it is never made a join.
_BETWEEN = """
SELECT EXISTS (
           SELECT FROM {readings} x
           WHERE x.device_id = s.id AND x.time > s.before AND x.time < s.after
             AND x.time >= %(first)s AND x.time < %(last)s)
FROM unnest(%(ids)s::uuid[], %(before)s::timestamptz[], %(after)s::timestamptz[])
     WITH ORDINALITY AS s (id, before, after, number)
ORDER BY s.number
"""


@dataclass(frozen=True)
class Known:
    """Rows that the table vouches for in a window, gaps in which no row has come since, and the questions."""

    rows: int
    gaps: tuple[Gap, ...]
    questions: tuple[Stretch, ...]


def require_table(cursor: Cursor, schema: str) -> None:
    """Raise TelemetryError when there is no such table, or one of an older migration."""
    if not has_table(cursor, schema, COVERAGE):
        raise TelemetryError(f"{schema}.{COVERAGE} does not exist: run the migrations first")
    cursor.execute(
        "SELECT count(*) FROM pg_attribute"
        " WHERE attrelid = to_regclass(format('%%I.%%I', %s, %s)) AND attname = 'apart'",
        (schema, COVERAGE),
    )
    if cursor.fetchone() == (0,):
        raise TelemetryError(f"{schema}.{COVERAGE} lacks the column apart: run the migrations first")


def ask(cursor: Cursor, schema: str, kind: str, asked: Sequence[Window], k: float) -> list[Known]:
    """Return what is known about windows of one kind of device, with gaps of more than ``k`` cadences."""
    from psycopg2 import sql

    if not asked:
        return []
    cursor.execute(
        sql.SQL(_HOURS).format(coverage=sql.Identifier(schema, COVERAGE)),
        {
            "numbers": list(range(len(asked))),
            "ids": [window.device.id for window in asked],
            "a": [window.start for window in asked],
            "b": [window.end for window in asked],
            "reach_s": [window.device.cadence_s * k for window in asked],
        },
    )
    answers = [
        (rows, first, last, spans(before, after)) for _, rows, first, last, before, after in cursor.fetchall()
    ]
    distances = [
        (window.device.id, before, after)
        for window, (_, _, _, holes) in zip(asked, answers, strict=True)
        for before, after in holes
    ]
    doubts = _doubts(cursor, schema, kind, distances)
    found = []
    for window, (rows, first, last, holes) in zip(asked, answers, strict=True):
        device = window.device
        if first is None:
            found.append(Known(0, (), (Stretch(device, window.start, window.end),)))
            continue
        gaps = [
            Gap(before, after, missing_between(before, after, device.cadence_s), open=False)
            for before, after in holes
            if (device.id, before) not in doubts
        ]
        questions = [Stretch(device, window.start, first)]
        questions += [
            Stretch(device, before + MICROSECOND, after, before)
            for before, after in holes
            if (device.id, before) in doubts
        ]
        questions.append(Stretch(device, last + MICROSECOND, window.end, last))
        found.append(Known(rows, tuple(gaps), tuple(questions)))
    return found


def _doubts(
    cursor: Cursor, schema: str, kind: str, distances: Sequence[tuple[str, datetime, datetime]]
) -> set[tuple[str, datetime]]:
    """Return those distances, by device and begin, in which there is a row that the table does not know."""
    from psycopg2 import sql

    query = sql.SQL(_BETWEEN).format(readings=sql.Identifier(schema, READINGS[kind]))
    found: set[tuple[str, datetime]] = set()
    for batch in batches(distances, start=lambda distance: distance[1]):
        cursor.execute(
            query,
            {
                "ids": [device for device, _, _ in batch],
                "before": [before for _, before, _ in batch],
                "after": [after for _, _, after in batch],
                "first": min(before for _, before, _ in batch),
                "last": max(after for _, _, after in batch),
            },
        )
        found.update(
            (device, before)
            for (device, before, _), (between,) in zip(batch, cursor.fetchall(), strict=True)
            if between
        )
    return found
