"""The figures of a database that maintenance is judged by.

Standard library only (psycopg2 comes in with the connection): Ansible ships this file to the database host.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .maintenance_plan import Index, Limits, Table, estimated_bloat, measured_bloat

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

# The catalog has no statistics of a table that was never analysed. The cumulative ones do not count for that:
# they are empty on a standby that was promoted.
_TABLES = """
SELECT n.nspname, c.relname, coalesce(s.n_live_tup, 0), coalesce(s.n_dead_tup, 0),
    coalesce(s.n_mod_since_analyze, 0), coalesce(s.n_ins_since_vacuum, 0),
    greatest(age(c.relfrozenxid), mxid_age(c.relminmxid), age(t.relfrozenxid), mxid_age(t.relminmxid), 0),
    c.reltuples = 0 OR n.nspname = 'pg_catalog' OR pg_relation_size(c.oid) = 0
        OR EXISTS (SELECT FROM pg_statistic WHERE starelid = c.oid AND NOT stainherit), false
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_class AS t ON t.oid = c.reltoastrelid
LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid
WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND n.nspname <> 'pg_toast'
UNION ALL
SELECT n.nspname, c.relname, 0, 0, 0, 0, 0, false, true
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relhassubclass AND c.relpersistence <> 't' AND n.nspname <> 'pg_toast'
AND NOT EXISTS (SELECT FROM pg_statistic WHERE starelid = c.oid AND stainherit)
AND EXISTS (SELECT FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
            WHERE inhparent = c.oid AND child.reltuples > 0)
"""

_INDEXES = """
SELECT c.oid, n.nspname AS schema, c.relname AS name, i.indrelid::regclass::text AS table,
    i.indisvalid AS valid, pg_relation_size(c.oid) AS size, c.relpages AS pages, c.reltuples AS rows,
    coalesce((SELECT substr(option, 12)::int FROM unnest(c.reloptions) AS option
              WHERE option LIKE 'fillfactor=%'), 90) AS fillfactor,
    (SELECT sum(stawidth) FROM pg_statistic WHERE starelid = i.indrelid AND NOT stainherit
     AND staattnum = ANY (i.indkey::smallint[]))::float8 AS key_bytes,
    0 = ANY (i.indkey::smallint[]) OR i.indpred IS NOT NULL AS partial,
    current_setting('block_size')::int AS page_size
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_am AS m ON m.oid = c.relam
WHERE c.relkind = 'i' AND (m.amname = 'btree' OR NOT i.indisvalid)
AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_temp%'
AND (n.nspname <> 'pg_toast' OR NOT i.indisvalid)
AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE p.relid = i.indrelid)
ORDER BY 2, 3
"""

_HOLDERS = """
SELECT format('session %s of %s in %s, transaction since %s', pid, coalesce(usename, backend_type),
              coalesce(datname, 'no database'), to_char(xact_start, 'YYYY-MM-DD"T"HH24:MI:SSOF')),
       age(backend_xmin)
FROM pg_stat_activity
WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid() AND backend_type <> 'autovacuum worker'
UNION ALL SELECT format('replication slot %s', slot_name), greatest(age(xmin), age(catalog_xmin))
FROM pg_replication_slots WHERE xmin IS NOT NULL OR catalog_xmin IS NOT NULL
UNION ALL SELECT format('prepared transaction %s', gid), age(transaction) FROM pg_prepared_xacts
ORDER BY 2 DESC LIMIT 1
"""

_FIGURES = """
SELECT json_build_object(
    'bytes', pg_database_size(current_database()),
    'dead_rows', (SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_all_tables),
    'age', (SELECT greatest(age(datfrozenxid), mxid_age(datminmxid)) FROM pg_database
            WHERE datname = current_database()),
    'indexes_bytes', (SELECT coalesce(sum(relpages::bigint), 0) * current_setting('block_size')::int
                      FROM pg_class WHERE relkind = 'i'))
"""


def tables(connection: Connection) -> list[Table]:
    """Return the tables and chunks of the database, and the parents that lack statistics over theirs."""
    with connection.cursor() as cursor:
        cursor.execute(_TABLES)
        return [Table(*row) for row in cursor]


def holder(connection: Connection) -> str:
    """Return what keeps old rows alive the longest, as a sentence; empty when nothing does."""
    with connection.cursor() as cursor:
        cursor.execute(_HOLDERS)
        row = cursor.fetchone()
        return str(row[0]) if row else ""


def figures(connection: Connection) -> dict[str, Any]:
    """Return the size in bytes, dead rows, the age (transactions) and the indexes' bytes of the database."""
    with connection.cursor() as cursor:
        cursor.execute(_FIGURES)
        row = cursor.fetchone()
        assert row is not None  # A SELECT without FROM has one row.
        found: dict[str, Any] = row[0]
        return found


def indexes(connection: Connection, limits: Limits) -> tuple[list[Index], str]:
    """Return the B-tree indexes with their bloat, and how that was found: `pgstattuple` or `estimate`.

    Only those are judged that are large enough to give back ``limits.bloat_mb``: pgstattuple reads all.
    Invalid indexes of all kinds are in the list; one that somebody builds now is not.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT n.nspname FROM pg_extension JOIN pg_namespace AS n ON n.oid = extnamespace"
            " WHERE extname = 'pgstattuple'"
        )
        extension = cursor.fetchone()
        schema = extension[0] if extension else None
        cursor.execute(_INDEXES)
        names = [column.name for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
        found = []
        for row in rows:
            large = row["valid"] and row["size"] >= limits.bloat_mb * 2**20
            bloat = _bloat(cursor, schema, row) if large else 0
            found.append(
                Index(
                    **{name: row[name] for name in ("schema", "name", "table", "valid", "size")},
                    bloat=bloat,
                    measured=schema is not None,
                )
            )
    return found, "pgstattuple" if schema else "estimate"


def _bloat(cursor: Any, schema: str | None, row: dict[str, Any]) -> int:
    from psycopg2 import sql

    if schema is None:
        if row["key_bytes"] is None or row["partial"]:
            return 0
        # `pages` and `rows` are of one moment, the last vacuum.
        known = {name: row[name] for name in ("pages", "rows", "key_bytes", "fillfactor", "page_size")}
        return estimated_bloat(**known)
    query = sql.SQL("SELECT leaf_pages, internal_pages, avg_leaf_density FROM {}(%s::oid::regclass)")
    cursor.execute(query.format(sql.Identifier(schema, "pgstatindex")), (row["oid"],))
    leaf_pages, internal_pages, density = cursor.fetchone()
    return measured_bloat(
        pages=row["size"] // row["page_size"],
        leaf_pages=leaf_pages,
        internal_pages=internal_pages,
        # NaN for an index without leaves.
        density=0.0 if math.isnan(density) else density,
        fillfactor=row["fillfactor"],
        page_size=row["page_size"],
    )
