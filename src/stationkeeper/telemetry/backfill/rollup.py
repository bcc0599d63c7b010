"""Compute the five-minute rollup of recovered spans again.

Which spans wait for it stands in the ledger, since the transaction that settled them: a run that dies in
between leaves them to the next one. Nothing before the horizon of retention is ever computed again, since
readings that were dropped would be missing from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from psycopg2 import sql
from psycopg2.extras import Json

from stationkeeper.telemetry.backfill.slices import Slice, floor
from stationkeeper.telemetry.explanations import horizons
from stationkeeper.telemetry.source import BATCHES, LEDGER, changing

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

BUCKET = timedelta(minutes=5)
#: Type of device that has a rollup.
KIND = "meter"
_MICROSECOND = timedelta(microseconds=1)
# Any fixed number: two back-fills that refresh the same buckets would wait for each other in a circle.
_LOCK = 7_301_846_513
_WAITING = """
SELECT ledger.id, lower(batch.span), upper(batch.span) FROM {ledger} AS ledger
JOIN {batch} AS batch ON batch.ledger_id = ledger.id
WHERE ledger.evidence ->> 'rollup' = 'waiting' AND batch.rows_new > 0
"""


def has_rollup(cursor: Cursor, schema: str, kind: str) -> bool:
    """Tell whether recovered rows of this type of device have a rollup to be refreshed."""
    cursor.execute(
        "SELECT to_regprocedure(format('%%I.refresh_meter_readings_5m(timestamptz, timestamptz)', %s::text))"
        " IS NOT NULL",
        (schema,),
    )
    return kind == KIND and cursor.fetchone() == (True,)


def refresh(connection: Connection, schema: str, *, timeout_s: float = 300.0) -> int:
    """Refresh what waits, newest first, one day in one transaction; return how many buckets changed."""
    with changing(connection, timeout_s=timeout_s) as cursor:
        cursor.execute(sql.SQL(_WAITING).format(**_tables(schema)))
        waiting = cursor.fetchall()
        begin = horizons(cursor, schema).get(KIND)
    spans = [Slice(start.astimezone(UTC), end.astimezone(UTC)) for _, start, end in waiting]
    changed = 0
    for span in merged(spans, begin):
        with changing(connection, timeout_s=timeout_s) as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            cursor.execute(
                sql.SQL("SELECT {}(%s, %s)").format(sql.Identifier(schema, "refresh_meter_readings_5m")),
                (span.start, span.end),
            )
            row = cursor.fetchone()
            changed += int(row[0]) if row else 0
    if waiting:
        with changing(connection, timeout_s=timeout_s) as cursor:
            cursor.execute(
                sql.SQL("UPDATE {ledger} SET evidence = evidence || %s WHERE id = ANY (%s)").format(
                    **_tables(schema)
                ),
                (
                    Json({"rollup": "refreshed"}),
                    sorted({row[0] for row in waiting}),
                ),
            )
    return changed


def merged(spans: Iterable[Slice], begin: datetime | None) -> Iterator[Slice]:
    """Yield whole buckets that hold the spans and lie after ``begin``, newest first, none twice, in days."""
    wanted: list[Slice] = []
    for span in sorted(spans, key=lambda one: one.start):
        start, end = floor(span.start, BUCKET), floor(span.end - _MICROSECOND, BUCKET) + BUCKET
        start = max(start, begin) if begin else start
        if start >= end:
            continue
        if wanted and start <= wanted[-1].end:
            wanted[-1] = Slice(wanted[-1].start, max(end, wanted[-1].end))
        else:
            wanted.append(Slice(start, end))
    for whole in reversed(wanted):
        end = whole.end
        while end > whole.start:
            start = max(whole.start, floor(end - _MICROSECOND, timedelta(days=1)))
            yield Slice(start, end)
            end = start


def _tables(schema: str) -> dict[str, sql.Identifier]:
    return {
        "ledger": sql.Identifier(schema, LEDGER),
        "batch": sql.Identifier(schema, BATCHES),
    }
