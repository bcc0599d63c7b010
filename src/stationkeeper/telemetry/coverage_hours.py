"""What the hourly table knows about windows: rows, gaps that are certain, and what to ask the rows about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stationkeeper.telemetry.explanations import Gap
from stationkeeper.telemetry.source import COVERAGE, READINGS, TelemetryError, has_table
from stationkeeper.telemetry.sweep import MICROSECOND, Stretch, Window, missing_between, spans

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)

# For each window: the rows of its whole hours, where they begin and end, and the distances between rows that
# are too long: `holes` in which nothing has come since, and `doubts`, where something has, or where the table
# does not know. What an hour without a question needs stands in the index. Of an hour that has more holes
# than the table lists, only the first and the last row count; what is between them is a doubt.
_PROVEN = """
WITH asked AS MATERIALIZED (
    SELECT s.number, s.id, s.a, s.b, make_interval(secs => s.reach_s) AS reach
    FROM unnest(%(numbers)s::bigint[], %(ids)s::uuid[], %(a)s::timestamptz[], %(b)s::timestamptz[],
                %(reach_s)s::float8[]) AS s (number, id, a, b, reach_s))
SELECT w.number, (h.rows - coalesce(q.unlisted, 0))::bigint,
       (SELECT c.first_time FROM {coverage} c WHERE c.device_id = w.id AND c.hour = h.first),
       (SELECT c.last_time FROM {coverage} c WHERE c.device_id = w.id AND c.hour = h.last),
       q.holes_before, q.holes_after, q.doubts_before, q.doubts_after
FROM asked w
CROSS JOIN LATERAL (
    SELECT sum(c.rows::integer) AS rows, min(c.hour) AS first, max(c.hour) AS last,
           array_agg(c.hour) FILTER (WHERE (c.apart <= w.reach) IS NOT TRUE) AS hours
    FROM {coverage} c
    WHERE c.device_id = w.id AND c.hour >= w.a AND c.hour <= w.b - interval '1 hour') h
CROSS JOIN LATERAL (
    SELECT sum(d.unlisted) AS unlisted,
           array_agg(d.before) FILTER (WHERE d.empty) AS holes_before,
           array_agg(d.after) FILTER (WHERE d.empty) AS holes_after,
           array_agg(d.before) FILTER (WHERE NOT d.empty) AS doubts_before,
           array_agg(d.after) FILTER (WHERE NOT d.empty) AS doubts_after
    FROM (
        SELECT s.before, s.after, s.unlisted, NOT EXISTS (
                   SELECT FROM {readings} x
                   WHERE x.device_id = w.id AND x.time > s.before AND x.time < s.after
                     AND x.time >= %(first)s AND x.time < %(last)s) AS empty
        FROM {coverage} c
        CROSS JOIN LATERAL (
            (SELECT p.last_time, c.first_time, 0 FROM {coverage} p
             WHERE p.device_id = w.id AND p.hour >= w.a AND p.hour < c.hour ORDER BY p.hour DESC LIMIT 1)
            UNION ALL
            SELECT lower(r), upper(r), 0 FROM unnest(c.holes) r WHERE c.steady <= w.reach
            UNION ALL
            SELECT c.first_time, c.last_time, c.rows - 2 WHERE c.steady > w.reach) s (before, after, unlisted)
        WHERE c.device_id = w.id AND c.hour = ANY (h.hours) AND s.after > s.before + w.reach) d) q
ORDER BY w.number
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
        sql.SQL(_PROVEN).format(
            coverage=sql.Identifier(schema, COVERAGE), readings=sql.Identifier(schema, READINGS[kind])
        ),
        {
            "numbers": list(range(len(asked))),
            "ids": [window.device.id for window in asked],
            "a": [window.start for window in asked],
            "b": [window.end for window in asked],
            "reach_s": [window.device.cadence_s * k for window in asked],
            "first": min(window.start for window in asked),
            "last": max(window.end for window in asked),
        },
    )
    found = []
    for (
        number,
        rows,
        first,
        last,
        holes_before,
        holes_after,
        doubts_before,
        doubts_after,
    ) in cursor.fetchall():
        window = asked[number]
        device = window.device
        if first is None:
            found.append(Known(0, (), (Stretch(device, window.start, window.end),)))
            continue
        gaps = [
            Gap(before, after, missing_between(before, after, device.cadence_s), open=False)
            for before, after in spans(holes_before, holes_after)
        ]
        questions = [Stretch(device, window.start, first)]
        questions += [
            Stretch(device, before + MICROSECOND, after, before)
            for before, after in spans(doubts_before, doubts_after)
        ]
        questions.append(Stretch(device, last + MICROSECOND, window.end, last))
        found.append(Known(rows, tuple(gaps), tuple(questions)))
    return found
