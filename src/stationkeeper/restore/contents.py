"""What a database holds: rows and newest row of each table, and hours with fewer rows than are on record.

Standard library only (psycopg2 is imported where used): Ansible ships this file to the database host.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)

# Chunks and partitions are counted with their parents. A time of the key tells the newest row, else any time.
_TABLES = """
SELECT n.nspname, c.relname,
       (SELECT a.attname FROM pg_attribute a
        LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey)
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          AND a.atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype)
        ORDER BY i.indrelid IS NULL, a.attname <> 'time', a.attnum LIMIT 1)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence = 'p' AND NOT c.relispartition
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
  AND n.nspname NOT LIKE '\\_timescaledb\\_%' AND n.nspname <> 'timescaledb_information'
  AND (c.relkind <> 'm' OR c.relispopulated)
  AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = c.oid)
ORDER BY 1, 2
"""
_DATABASES = """
SELECT datname FROM pg_database
WHERE datallowconn AND NOT datistemplate AND (%(only)s = '{}'::text[] OR datname = ANY (%(only)s)) ORDER BY 1
"""
_COVERED = """
SELECT n.nspname, array_agg(r.relname ORDER BY r.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class r ON r.relnamespace = n.oid AND r.relname LIKE 'mg\\_%\\_readings' AND r.relkind IN ('r', 'p')
WHERE c.relname = 'mg_coverage_hourly' AND c.relkind = 'r' GROUP BY 1
"""
# Rows are never taken away but by retention, whole days of all devices at a time, so an hour never has fewer
# than were counted in it. It may have more, which came late.
_SHORT = """
WITH found AS (
    SELECT device_id, date_bin('1 hour', time, '2000-01-01T00:00Z') AS hour, count(*) AS rows
    FROM ({readings}) AS readings GROUP BY 1, 2)
SELECT count(*), coalesce(sum(known.rows), 0),
       count(*) FILTER (WHERE coalesce(found.rows, 0) < known.rows),
       min(format('%%s of %%s has %%s rows, %%s were counted', to_char(known.hour, 'YYYY-MM-DD"T"HH24"Z"'),
                  known.device_id, coalesce(found.rows, 0), known.rows))
           FILTER (WHERE coalesce(found.rows, 0) < known.rows)
FROM {coverage} AS known LEFT JOIN found USING (device_id, hour)
WHERE known.hour >= %(dropped_before)s
"""


@dataclass(frozen=True)
class Table:
    """One table: rows, and the time of its newest row as text in UTC, where it has a column for it."""

    name: str
    rows: int
    newest: str | None


def databases(cursor: Cursor, only: tuple[str, ...] = ()) -> list[str]:
    """Return the names of the databases, without templates."""
    cursor.execute(_DATABASES, {"only": list(only)})
    return [name for (name,) in cursor.fetchall()]


def tables(cursor: Cursor) -> list[Table]:
    """Count every table of the database that is connected to, row by row: no estimate, every page is read."""
    from psycopg2 import sql

    cursor.execute("SET TimeZone = 'UTC'")
    cursor.execute(_TABLES)
    found = []
    for schema, name, column in cursor.fetchall():
        newest = sql.SQL("max({})::text").format(sql.Identifier(column)) if column else sql.SQL("NULL")
        count = sql.SQL("SELECT count(*), {} FROM {}").format(newest, sql.Identifier(schema, name))
        cursor.execute(count)
        rows, last = cursor.fetchone() or (0, None)
        found.append(Table(f"{schema}.{name}", int(rows), last))
    return found


def differences(expected: list[Table], found: list[Table]) -> list[str]:
    """Return a sentence for each table that is not the same in both."""
    there = {table.name: table for table in found}
    wrong = []
    for table in expected:
        other = there.pop(table.name, None)
        if other is None:
            wrong.append(f"{table.name} is missing")
        elif other != table:
            has = f"{other.rows} rows up to {other.newest}"
            wrong.append(f"{table.name} has {has} instead of {table.rows} up to {table.newest}")
    return [*wrong, *(f"{name} is not expected" for name in there)]


def as_dicts(found: list[Table]) -> list[dict[str, Any]]:
    """Return plain data."""
    return [asdict(table) for table in found]


@dataclass(frozen=True)
class Hours:
    """Hours of devices whose rows are on record, the sum of these rows, and the hours that have fewer."""

    checked: int
    rows: int
    short: int
    example: str | None


def hours(cursor: Cursor) -> Hours | None:
    """Hold the readings against the hourly coverage in the same database; nothing when there is none."""
    from psycopg2 import sql

    cursor.execute(_COVERED)
    covered = cursor.fetchone()
    if covered is None:
        return None
    schema, names = covered
    cursor.execute("SELECT to_regclass('ops.retention') IS NOT NULL")
    dropped: Any = "-infinity"
    if (cursor.fetchone() or (False,))[0]:
        cursor.execute(
            "SELECT coalesce(max(dropped_before), '-infinity')::text FROM ops.retention"
            " WHERE relation = ANY (%s)",
            ([f"{schema}.{name}" for name in names],),
        )
        dropped = (cursor.fetchone() or (dropped,))[0]
    one = "SELECT device_id, time FROM {}"
    parts = [sql.SQL(one).format(sql.Identifier(schema, name)) for name in names]
    query = sql.SQL(_SHORT).format(
        readings=sql.SQL(" UNION ALL ").join(parts), coverage=sql.Identifier(schema, "mg_coverage_hourly")
    )
    cursor.execute(query, {"dropped_before": dropped})
    checked, rows, short, example = cursor.fetchone() or (0, 0, 0, None)
    return Hours(int(checked), int(rows), int(short), example)
