"""Rows of one table and time range, out of a restored instance back into the live table.

The house's rules of back-fill: through a temporary table, only what is missing, nothing is ever overwritten,
one transaction for each day. Standard library only (psycopg2 is imported where used): Ansible ships it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from .request import RestoreError, rfc3339

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

_COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod), attidentity = 'a' FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
ORDER BY attname COLLATE "C"
"""
_KEY = """
SELECT array_agg(a.attname ORDER BY k.place) FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
WHERE i.indrelid = to_regclass(%s) AND i.indisprimary
"""


@dataclass(frozen=True)
class Span:
    """The rows of ``table`` (``schema.name``) whose ``column`` is in [start, end)."""

    table: str
    column: str
    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        """Refuse what is no span. Raises RestoreError."""
        if len(self.table.split(".")) != 2:
            raise RestoreError(f"{self.table!r} is no table with its schema, like flux.mg_bess_readings")
        if self.start >= self.end:
            raise RestoreError(f"{rfc3339(self.start)} is not before {rfc3339(self.end)}")


@dataclass
class Returned:
    """Rows found in the restored instance, put back (or to be), and there already with other values."""

    found: int = 0
    put_back: int = 0
    other_values: int = 0


@dataclass(frozen=True)
class _Shape:
    columns: tuple[str, ...]
    key: tuple[str, ...]
    identity: bool


def put_back(restored: Connection, live: Connection, span: Span, *, dry_run: bool = False) -> Returned:
    """Add the rows of a span that the live table does not have, and prove that it has all of them then.

    Rows that are there already stay as they are, also with other values; these are counted. What is committed
    stays when it is interrupted, and the next run goes on. With ``dry_run`` nothing is written. Raises
    RestoreError before anything is touched when the tables differ, when the live one has no primary key, or
    when retention has dropped a part of the span; and when a row is missing afterwards.
    """
    with live.cursor() as cursor, restored.cursor() as other:
        shape = _shape(cursor, other, span)
        _refuse_dropped(cursor, span)
    live.rollback()
    total = Returned()
    for start, end in _days(span):
        part = _one_day((restored, live), span, shape, (start, end), dry_run=dry_run)
        total.found += part.found
        total.put_back += part.put_back
        total.other_values += part.other_values
    return total


def refresh(live: Connection, function: str, span: Span) -> None:
    """Call a function (``schema.name``) with the span, as that of a rollup. Raises psycopg2's errors."""
    from psycopg2 import sql

    call = sql.SQL("SELECT {}(%s, %s)").format(sql.Identifier(*function.split(".")))
    with live, live.cursor() as cursor:
        cursor.execute(call, (span.start, span.end))


def _shape(cursor: Cursor, other: Cursor, span: Span) -> _Shape:
    cursor.execute(_COLUMNS, (span.table,))
    here = cursor.fetchall()
    other.execute(_COLUMNS, (span.table,))
    there = other.fetchall()
    for rows, where in ((here, "live database"), (there, "restored instance")):
        if not rows:
            raise RestoreError(f"the {where} has no table {span.table}")
    if [row[:2] for row in here] != [row[:2] for row in there]:
        changed = sorted({f"{name} {kind}" for name, kind, _ in set(here) ^ set(there)})
        raise RestoreError(
            f"{span.table} has other columns now than when the backup was made: {', '.join(changed)}"
        )
    if (span.column, "timestamp with time zone") not in [row[:2] for row in here]:
        raise RestoreError(f"{span.table} has no column {span.column} of type timestamptz")
    cursor.execute(_KEY, (span.table,))
    key = (cursor.fetchone() or (None,))[0]
    if not key:
        raise RestoreError(f"{span.table} has no primary key: nothing says which rows it has already")
    return _Shape(tuple(row[0] for row in here), tuple(key), any(row[2] for row in here))


def _refuse_dropped(cursor: Cursor, span: Span) -> None:
    cursor.execute("SELECT to_regclass('ops.retention') IS NOT NULL")
    if not (cursor.fetchone() or (False,))[0]:
        return
    cursor.execute("SELECT dropped_before FROM ops.retention WHERE relation = %s", (span.table,))
    row = cursor.fetchone()
    if row is not None and span.start < row[0]:
        raise RestoreError(
            f"retention has dropped {span.table} before {rfc3339(row[0])}, and would drop it again; begin"
            " there, or read older rows in the scratch instance"
        )


def _days(span: Span) -> Iterator[tuple[datetime, datetime]]:
    start = span.start.astimezone(UTC)
    while start < span.end:
        midnight = start.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        end = min(midnight, span.end)
        yield start, end
        start = end


def _one_day(
    connections: tuple[Connection, Connection],
    span: Span,
    shape: _Shape,
    day: tuple[datetime, datetime],
    *,
    dry_run: bool,
) -> Returned:
    from psycopg2 import sql

    (restored, live), (start, end) = connections, day
    table = sql.Identifier(*span.table.split("."))
    columns = sql.SQL(", ").join(map(sql.Identifier, shape.columns))
    same_key = sql.SQL(" AND ").join(
        sql.SQL("live.{0} = restored.{0}").format(sql.Identifier(name)) for name in shape.key
    )
    # As text, since not every type can be compared.
    row = sql.SQL("ROW({})::text")
    live_row, restored_row = (
        row.format(sql.SQL(", ").join(sql.Identifier(alias, name) for name in shape.columns))
        for alias in ("live", "restored")
    )
    within = sql.SQL("{column} >= {start} AND {column} < {end}").format(
        column=sql.Identifier(span.column), start=sql.Literal(start), end=sql.Literal(end)
    )
    parts = {
        "table": table,
        "columns": columns,
        "same_key": same_key,
        "identity": sql.SQL("OVERRIDING SYSTEM VALUE" if shape.identity else ""),
        "differ": sql.SQL("{} <> {}").format(live_row, restored_row),
        "within": within,
        # Of a hypertable only the chunks of that day.
        "there": sql.SQL("(SELECT * FROM {} WHERE {})").format(table, within)
        if span.column in shape.key
        else table,
    }
    try:
        with live.cursor() as cursor:
            cursor.execute(
                sql.SQL(
                    "CREATE TEMPORARY TABLE restored ON COMMIT DROP AS"
                    " SELECT {columns} FROM {table} WITH NO DATA"
                ).format(**parts)
            )
            select = sql.SQL("COPY (SELECT {columns} FROM {table} WHERE {within}) TO STDOUT (FORMAT binary)")
            found = _copy(restored, select.format(**parts), cursor, columns)
            counts = sql.SQL(
                "SELECT count(*) FILTER (WHERE live.{key} IS NULL),"
                " count(*) FILTER (WHERE live.{key} IS NOT NULL AND {differ})"
                " FROM restored LEFT JOIN {there} AS live ON {same_key}"
            ).format(key=sql.Identifier(shape.key[0]), **parts)
            cursor.execute(counts)
            missing, different = cursor.fetchone() or (0, 0)
            if dry_run:
                return Returned(found, missing, different)
            insert = sql.SQL(
                "INSERT INTO {table} ({columns}) {identity} SELECT {columns} FROM restored"
                " ON CONFLICT DO NOTHING"
            ).format(**parts)
            cursor.execute(insert)
            added = cursor.rowcount
            cursor.execute(counts)
            still, different = cursor.fetchone() or (0, 0)
            if still:
                raise RestoreError(
                    f"{still} rows of {span.table} from {rfc3339(start)} on are still missing: another unique"
                    " index refuses them. Nothing of that day was put back"
                )
        live.commit()
        return Returned(found, added, different)
    finally:
        live.rollback()
        restored.rollback()


def _copy(restored: Connection, select: Any, target: Cursor, columns: Any) -> int:
    """Stream the rows through a pipe, so that memory does not grow with them; return their number."""
    from psycopg2 import sql

    reading, writing = os.pipe()
    failure: list[BaseException] = []

    def send() -> None:
        try:
            with os.fdopen(writing, "wb") as stream, restored.cursor() as cursor:
                cursor.copy_expert(select, stream)
        except Exception as error:
            failure.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with os.fdopen(reading, "rb") as stream:
            into = sql.SQL("COPY restored ({}) FROM STDIN (FORMAT binary)").format(columns)
            target.copy_expert(into, stream)
    finally:
        sender.join()
        if failure:
            raise RestoreError(f"reading the restored rows failed: {str(failure[0]).strip()}")
    return int(target.rowcount)
