"""Monthly maintenance: indexes that nobody uses, rows of old jobs to their archive, and how the tables grow.

Standard library only (psycopg2 comes in with the connection): Ansible ships this file to the database host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .maintenance_server import is_standby, session

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

# The scans of a hypertable's or partitioned table's index are on those of its chunks: the parent's own are 0.
# TimescaleDB says which is whose, PostgreSQL for partitions.
_UNUSED = """
WITH RECURSIVE family (root, member) AS (
    SELECT i.indexrelid, i.indexrelid FROM pg_index AS i
    JOIN pg_class AS c ON c.oid = i.indexrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^(pg_|information_schema$|_timescaledb_)' AND NOT c.relispartition
    UNION
    SELECT root, child FROM family JOIN (
        SELECT inhparent AS parent, inhrelid AS child FROM pg_inherits{chunks}
    ) AS known ON known.parent = member
)
SELECT root::regclass::text, i.indrelid::regclass::text, coalesce(sum(s.idx_scan), 0)::bigint,
    sum(pg_relation_size(member))::bigint, count(*)::int, pg_get_indexdef(root)
FROM family
JOIN pg_index AS i ON i.indexrelid = root
LEFT JOIN pg_stat_all_indexes AS s ON s.indexrelid = member
WHERE i.indisvalid AND NOT i.indisunique AND NOT i.indisexclusion AND NOT i.indisclustered
AND NOT i.indisreplident AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = root)
GROUP BY root, i.indrelid
HAVING coalesce(sum(s.idx_scan), 0) <= %(scans)s
ORDER BY 4 DESC
"""
_CHUNKS = """
        UNION ALL
        SELECT to_regclass(format('%%I.%%I', h.schema_name, x.hypertable_index_name)),
            to_regclass(format('%%I.%%I', k.schema_name, x.index_name))
        FROM _timescaledb_catalog.chunk_index AS x
        JOIN _timescaledb_catalog.hypertable AS h ON h.id = x.hypertable_id
        JOIN _timescaledb_catalog.chunk AS k ON k.id = x.chunk_id"""

# Statistics begin anew with a reset, with a crash (which the server notes as a reset of its fixed ones), and
# with a promotion: a standby counts its own readers only.
_SINCE = """
SELECT extract(epoch FROM now() - greatest(d.stats_reset, b.stats_reset, (pg_stat_file(format(
    'pg_wal/%s.history', lpad(upper(to_hex(c.timeline_id)), 8, '0')), true)).modification))::float8 / 86400
FROM pg_stat_database AS d, pg_stat_bgwriter AS b, pg_control_checkpoint() AS c
WHERE d.datname = current_database()
"""

_SIZES = """
SELECT coalesce(parent.oid, c.oid)::regclass::text, sum(pg_table_size(c.oid))::bigint,
    sum(pg_indexes_size(c.oid))::bigint, greatest(sum(c.reltuples), 0)::bigint, count(*)::int
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_inherits ON inhrelid = c.oid
LEFT JOIN pg_class AS parent ON parent.oid = inhparent
WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^(pg_|information_schema$)' AND c.relpersistence = 'p'
GROUP BY 1 ORDER BY 2 DESC
"""

# One statement: what is deleted is what is kept, also when it is ended in the middle.
_MOVE = """
WITH moved AS (
    DELETE FROM {table} WHERE {condition} RETURNING {columns}
), kept AS (
    INSERT INTO {archive} ({columns}) SELECT {columns} FROM moved RETURNING 1
) SELECT count(*) FROM kept
"""
# What runs is never old, and of each job the newest runs stay: checks look at them.
_OLD = """
started_at < now() - make_interval(days => %(days)s) AND status <> 'running'
AND id NOT IN (SELECT max(id) FROM {table} GROUP BY job_name)
"""


class MonthlyError(Exception):
    """The request cannot be carried out; nothing was touched."""


@dataclass(frozen=True)
class Unused:
    """An index with all its ``parts`` (itself and those of chunks): their scans, and their size in bytes."""

    name: str
    table: str
    scans: int
    size: int
    parts: int
    definition: str


@dataclass
class Report:
    """What was found and done."""

    standby: bool = False
    statistics_days: float = 0.0
    unused: list[Unused] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    moved: int = 0
    sizes: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def monthly(
    settings: Mapping[str, Any],
    *,
    scans: int,
    least_days: float,
    drop: Sequence[str] = (),
    archive_days: int = 0,
    schema: str = "flux",
    lock_timeout_s: float,
    check: bool,
) -> Report:
    """Report unused indexes and sizes, drop the indexes that are named, and move rows of old jobs away.

    ``drop`` has the names as the report shows them. Raises MonthlyError when one of them is used, unique,
    unknown, or the statistics are younger than ``least_days``; ``psycopg2.Error`` when the database refuses.
    A standby is only looked at, and only for sizes: its statistics count its own readers.
    """
    report = Report()
    with session(settings, lock_timeout_s=lock_timeout_s, statement_timeout_s=3600) as connection:
        report.standby = is_standby(connection)
        report.sizes = _sizes(connection)
        if report.standby:
            return report
        report.statistics_days = _since(connection)
        report.unused = unused(connection, scans)
        _require(report, drop, least_days)
        if archive_days > 0:
            report.moved = _move(connection, schema, archive_days, check=check)
        for name in drop:
            if not check:
                with connection.cursor() as cursor:
                    # regclass has quoted the name. A hypertable's index cannot be dropped CONCURRENTLY.
                    cursor.execute(f"DROP INDEX {name}")
            report.dropped.append(name)
        if drop and not check:
            left = [one.name for one in unused(connection, scans) if one.name in drop]
            if left:
                raise MonthlyError(f"still there after their drop: {', '.join(left)}")
    return report


def unused(connection: Connection, scans: int) -> list[Unused]:
    """Return the indexes that were scanned at most ``scans`` times, the largest first.

    Never a unique one, nor one of a constraint, which refuses wrong rows without a single scan.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('_timescaledb_catalog.chunk_index') IS NOT NULL")
        row = cursor.fetchone()
        chunks = _CHUNKS if row and row[0] else ""
        cursor.execute(_UNUSED.format(chunks=chunks), {"scans": scans})
        return [Unused(*found) for found in cursor]


def _since(connection: Connection) -> float:
    """Return for how many days this server gathers statistics as a primary; 0 when nothing says so."""
    with connection.cursor() as cursor:
        cursor.execute(_SINCE)
        row = cursor.fetchone()
        return float(row[0]) if row and row[0] is not None else 0.0


def _require(report: Report, drop: Sequence[str], least_days: float) -> None:
    known = {one.name for one in report.unused}
    wrong = [name for name in drop if name not in known]
    if wrong:
        raise MonthlyError(
            f"not an unused index of the report: {', '.join(wrong)}. Nothing was dropped. It lists "
            + (", ".join(sorted(known)) or "none")
        )
    if drop and report.statistics_days < least_days:
        raise MonthlyError(
            f"statistics are gathered for {report.statistics_days:.1f} days, {least_days:.0f} are needed to "
            "call an index unused. Nothing was dropped"
        )


def _move(connection: Connection, schema: str, days: int, *, check: bool) -> int:
    from psycopg2 import sql

    table, archive = sql.Identifier(schema, "mg_etl_job"), sql.Identifier(schema, "mg_etl_job_archive")
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s)", (f"{schema}.mg_etl_job_archive",))
        row = cursor.fetchone()
        if row is None or row[0] is None:
            raise MonthlyError(f"the database has no {schema}.mg_etl_job_archive: database_migrate")
        condition = sql.SQL(_OLD).format(table=table)
        query = sql.SQL("SELECT count(*) FROM {table} WHERE {condition}" if check else _MOVE)
        cursor.execute(
            "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
            (f"{schema}.mg_etl_job",),
        )
        names = cursor.fetchone()
        assert names is not None  # An aggregate has one row.
        columns = sql.SQL(", ").join(sql.Identifier(name) for name in names[0])
        cursor.execute(
            query.format(table=table, archive=archive, condition=condition, columns=columns), {"days": days}
        )
        moved = cursor.fetchone()
        return int(moved[0]) if moved else 0


def _sizes(connection: Connection) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(_SIZES)
        names = ("table", "bytes", "index_bytes", "rows", "parts")
        return [dict(zip(names, row, strict=True)) for row in cursor]
