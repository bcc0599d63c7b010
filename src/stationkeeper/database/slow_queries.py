"""The statements that cost most, by pg_stat_statements, with their plans, and what runs for long now.

Standard library only (psycopg2 comes in with the connection): Ansible ships this file to the database host.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .maintenance_server import session
from .sessions import Session, describe, read, redacted

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

_GENERIC_PLAN_VERSION = 160000
# What has a plan. EXPLAIN does not run it.
_EXPLAINABLE = re.compile(r"^\s*(?:SELECT|WITH|INSERT|UPDATE|DELETE|VALUES)\b", re.IGNORECASE)
_PLAN_LINES = 40
_QUERY_LENGTH = 400

_STATEMENTS = """
SELECT s.queryid::text AS query_id, r.rolname AS user, s.calls, s.total_exec_time AS total_ms,
    s.mean_exec_time AS mean_ms, s.max_exec_time AS max_ms, s.rows, s.shared_blks_hit AS hit,
    s.shared_blks_read AS read, s.temp_blks_written AS temp_written, s.query
FROM {schema}.pg_stat_statements AS s LEFT JOIN pg_roles AS r ON r.oid = s.userid
WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND s.toplevel
AND s.calls >= %(calls)s AND s.mean_exec_time >= %(mean_ms)s
ORDER BY s.{order}_exec_time DESC, s.queryid LIMIT %(limit)s
"""


class SlowQueryError(Exception):
    """The database does not count its statements; the message names the fix."""


@dataclass(frozen=True)
class Statement:
    """One statement with its figures: times in milliseconds, blocks in pages. Its text has no literals."""

    query_id: str
    user: str | None
    calls: int
    total_ms: float
    mean_ms: float
    max_ms: float
    rows: int
    hit: int
    read: int
    temp_written: int
    query: str
    plan: tuple[str, ...] = ()
    no_plan: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"plan": list(self.plan)}


@dataclass
class Report:
    """Statements by their whole time and by their mean, and sessions whose query runs for long now."""

    since: str | None = None
    by_total: list[Statement] = field(default_factory=list)
    by_mean: list[Statement] = field(default_factory=list)
    running: list[Session] = field(default_factory=list)


def slow(
    settings: Mapping[str, Any],
    *,
    limit: int,
    mean_ms: float,
    least_calls: int,
    running_s: float,
    plans: bool,
) -> Report:
    """Return what costs most in the database of ``settings``. Reads only; the server may be a standby.

    ``by_mean`` has statements of at least ``mean_ms`` and ``least_calls`` calls. Raises SlowQueryError where
    pg_stat_statements is not loaded or not in the database, and ``psycopg2.Error``.
    """
    import psycopg2

    report = Report()
    with session(settings) as connection:
        connection.set_session(readonly=True)
        running = [one for one in read(connection) if one.kind == "client backend" and one.state == "active"]
        report.running = [one for one in running if (one.state_s or 0) >= running_s]
        schema = _schema(connection)
        try:
            report.since = _since(connection, schema)
            for order, least, calls in (("total", 0.0, 1), ("mean", mean_ms, least_calls)):
                query = _STATEMENTS.format(schema=schema, order=order)
                rows = _statements(connection, query, {"limit": limit, "mean_ms": least, "calls": calls})
                setattr(report, f"by_{order}", [_planned(connection, row, plans) for row in rows])
        except psycopg2.errors.ObjectNotInPrerequisiteState:
            raise SlowQueryError(
                "pg_stat_statements is not loaded: put it into timescaledb_other_preload_libraries of the "
                "inventory and run site.yml, which restarts the server"
            ) from None
    return report


def _schema(connection: Connection) -> str:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'pg_stat_statements'"
        )
        row = cursor.fetchone()
    if row is None:
        raise SlowQueryError(
            "the database has no extension pg_stat_statements: add it to timescaledb_other_extensions of the "
            "inventory and run site.yml"
        )
    return str(row[0])


def _since(connection: Connection, schema: str) -> str | None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT stats_reset FROM {schema}.pg_stat_statements_info")  # noqa: S608 (regnamespace)
        row = cursor.fetchone()
        return row[0].isoformat() if row and row[0] else None


def _statements(connection: Connection, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]


def _planned(connection: Connection, row: dict[str, Any], plans: bool) -> Statement:
    """Return a statement with its generic plan, or why it has none. It is explained, never run."""
    import psycopg2

    query = row["query"]
    plan: tuple[str, ...] = ()
    reason = ""
    if plans and connection.server_version < _GENERIC_PLAN_VERSION:
        reason = "generic plans are there from PostgreSQL 16 on"
    elif plans and not _EXPLAINABLE.match(query):
        reason = "not a statement that has a plan"
    elif plans:
        try:
            with connection.cursor() as cursor:
                # Without parameters of its own: psycopg2 leaves a % in the text alone.
                cursor.execute(f"EXPLAIN (GENERIC_PLAN, COSTS ON) {query}")
                plan = tuple(redacted_plan(line) for (line,) in cursor)[:_PLAN_LINES]
        except psycopg2.Error as error:
            # A temporary table, or a parameter whose type the text alone does not say.
            reason = str(error).strip().splitlines()[0]
    return Statement(**row | {"query": redacted(query, _QUERY_LENGTH)}, plan=plan, no_plan=reason)


def redacted_plan(line: str) -> str:
    """Return a line of a plan without the strings of its conditions; its numbers are estimates, and stay."""
    return re.sub(r"'(?:[^']|'')*'", "?", line)


def table(report: Report) -> list[str]:
    """Return the report as lines for a terminal."""
    lines = [f"running now: {describe(one)}" for one in report.running]
    for title, statements in (("whole time", report.by_total), ("mean time", report.by_mean)):
        lines += [
            f"{title}: {one.total_ms / 1000:.1f} s in {one.calls} calls, mean {one.mean_ms:.1f} ms, "
            f"{one.user}: {one.query}"
            for one in statements
        ]
    return lines
