"""TimescaleDB's own policies (Community edition): what is there, what shall be, and the calls between.

Standard library only (psycopg2 is imported where used): Ansible ships this file to the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .policy_declaration import Compression, Declaration, PolicyError, order, split_name

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.sql import Composable

# A continuous aggregate's policy stands under the view's name in newer versions, else under its table's.
_JOBS = """
SELECT proc_name, config, schedule_interval::text FROM timescaledb_information.jobs
WHERE (proc_name IN ('policy_retention', 'policy_compression')
       AND hypertable_schema = %(schema)s AND hypertable_name = %(table)s)
   OR (proc_name = 'policy_refresh_continuous_aggregate' AND (hypertable_schema, hypertable_name) IN (
       SELECT unnest(ARRAY[view_schema, materialization_hypertable_schema]),
              unnest(ARRAY[view_name, materialization_hypertable_name])
       FROM timescaledb_information.continuous_aggregates
       WHERE view_schema = %(view_schema)s AND view_name = %(view)s))
"""
_COLUMNS = """
SELECT attname, segmentby_column_index, orderby_asc FROM timescaledb_information.compression_settings
WHERE hypertable_schema = %s AND hypertable_name = %s
ORDER BY segmentby_column_index, orderby_column_index
"""


@dataclass(frozen=True)
class Step:
    """One statement, and what it does in words."""

    text: str
    statement: Composable
    values: tuple[Any, ...]


def interval(cursor: Cursor, text: str) -> str:
    """Return an interval in the database's own spelling. Raises PolicyError for none, or not above zero."""
    import psycopg2

    try:
        cursor.execute("SELECT %s::interval::text, %s::interval > interval '0'", (text, text))
    except psycopg2.DataError:
        raise PolicyError(f"{text!r} is not an interval such as '90 days'") from None
    row = cursor.fetchone()
    if row is None or not row[1]:
        raise PolicyError(f"the interval {text!r} must be above zero")
    return str(row[0])


def is_continuous_aggregate(cursor: Cursor, view: str) -> bool:
    """Tell whether a rollup is TimescaleDB's own."""
    cursor.execute(
        "SELECT FROM timescaledb_information.continuous_aggregates WHERE view_schema = %s AND view_name = %s",
        split_name(view),
    )
    return cursor.fetchone() is not None


def read(cursor: Cursor, wanted: Declaration) -> dict[str, Any]:
    """Return the policies ``retention``, ``compression`` and ``refresh``, each None where there is none."""
    schema, table = split_name(wanted.hypertable)
    view_schema, view = split_name(wanted.refresh.view) if wanted.refresh else ("", "")
    cursor.execute(_JOBS, {"schema": schema, "table": table, "view_schema": view_schema, "view": view})
    jobs = {str(name): (config, str(every)) for name, config, every in cursor.fetchall()}
    cursor.execute(_COLUMNS, (schema, table))
    columns = cursor.fetchall()
    retention, compression = jobs.get("policy_retention"), jobs.get("policy_compression")
    refresh = jobs.get("policy_refresh_continuous_aggregate")
    state: dict[str, Any] = {"retention": None, "compression": None, "refresh": None}
    if retention:
        state["retention"] = {"drop_after": _from_config(cursor, retention[0], "drop_after")}
    if compression or columns:
        state["compression"] = {
            "compress_after": _from_config(cursor, compression[0], "compress_after") if compression else None,
            "segment_by": [name for name, segment, _ in columns if segment is not None],
            "order_by": [
                name if ascending else f"{name} DESC"
                for name, segment, ascending in columns
                if segment is None
            ],
        }
    if refresh:
        state["refresh"] = {
            "start_offset": _from_config(cursor, refresh[0], "start_offset"),
            "end_offset": _from_config(cursor, refresh[0], "end_offset"),
            "schedule_interval": refresh[1],
        }
    return state


def target(
    cursor: Cursor, wanted: Declaration, before: Mapping[str, Any], enforced: Mapping[str, str]
) -> dict[str, Any]:
    """Return what shall be there, in the form of `read`."""
    after = {key: None if key in wanted.absent else value for key, value in before.items()}
    if wanted.retention:
        # Never two that drop: where a timer does it, a policy goes.
        by_policy = enforced["retention"] == "policy"
        drop_after = interval(cursor, wanted.retention.drop_after)
        after["retention"] = {"drop_after": drop_after} if by_policy else None
    if wanted.compression:
        after["compression"] = {
            "compress_after": interval(cursor, wanted.compression.compress_after),
            "segment_by": list(wanted.compression.segment_by),
            "order_by": [_spell(entry) for entry in wanted.compression.order_by],
        }
    elif "compression" in wanted.absent and before["compression"]:
        # The policy goes; what is compressed, and how, stays.
        after["compression"] = {**before["compression"], "compress_after": None}
    if wanted.refresh and enforced["refresh"] == "policy":
        after["refresh"] = {
            "start_offset": interval(cursor, wanted.refresh.start_offset),
            "end_offset": interval(cursor, wanted.refresh.end_offset),
            "schedule_interval": interval(cursor, wanted.refresh.schedule_interval),
        }
    return after


def steps(
    schema: str, wanted: Declaration, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[Step]:
    """Yield the calls that lead from one state to the other; ``schema`` is that of the extension. Pure."""
    table = wanted.hypertable
    if before["retention"] != after["retention"]:
        if before["retention"]:
            yield _call(schema, f"remove the retention policy of {table}", "remove_retention_policy", table)
        if after["retention"]:
            text = f"add a retention policy to {table}: {after['retention']['drop_after']}"
            yield _call(schema, text, "add_retention_policy", table, **after["retention"])
    old, new = before["compression"] or {}, after["compression"] or {}
    columns = [(state.get("segment_by"), state.get("order_by")) for state in (old, new)]
    if wanted.compression and columns[0] != columns[1]:
        yield _settings(table, wanted.compression)
    if old.get("compress_after") != new.get("compress_after"):
        if old.get("compress_after"):
            yield _call(
                schema, f"remove the compression policy of {table}", "remove_compression_policy", table
            )
        if new.get("compress_after"):
            text = f"add a compression policy to {table}: {new['compress_after']}"
            yield _call(schema, text, "add_compression_policy", table, compress_after=new["compress_after"])
    if wanted.refresh and before["refresh"] != after["refresh"]:
        view = wanted.refresh.view
        if before["refresh"]:
            text = f"remove the refresh policy of {view}"
            yield _call(schema, text, "remove_continuous_aggregate_policy", view)
        text = f"add a refresh policy to {view}: every {after['refresh']['schedule_interval']}"
        yield _call(schema, text, "add_continuous_aggregate_policy", view, **after["refresh"])


def _from_config(cursor: Cursor, config: Mapping[str, Any], key: str) -> str:
    """Return an interval; a policy that goes by another measure (the age of a chunk, any age) has none."""
    return interval(cursor, str(config[key])) if config.get(key) is not None else "not set"


def _spell(entry: str) -> str:
    column, descends = order(entry)
    return f"{column} DESC" if descends else column


def _call(schema: str, text: str, function: str, relation: str, **intervals: str) -> Step:
    from psycopg2 import sql

    arguments: list[Composable] = [sql.SQL("%s::regclass")]
    arguments += [sql.SQL("{} => %s::interval").format(sql.Identifier(name)) for name in intervals]
    statement = sql.SQL("SELECT {}({})").format(
        sql.Identifier(schema, function), sql.SQL(", ").join(arguments)
    )
    return Step(text, statement, (relation, *intervals.values()))


def _settings(table: str, wanted: Compression) -> Step:
    from psycopg2 import sql

    text = f"set compression of {table}: by {', '.join(wanted.segment_by) or '-'}"
    # The names were checked: they need no quotes within these texts.
    ordered = ", ".join(_spell(entry) for entry in wanted.order_by)
    statement = sql.SQL(
        "ALTER TABLE {} SET (timescaledb.compress, timescaledb.compress_segmentby = {},"
        " timescaledb.compress_orderby = {})"
    ).format(
        sql.Identifier(*split_name(table)), sql.Literal(", ".join(wanted.segment_by)), sql.Literal(ordered)
    )
    return Step(text, statement, ())
