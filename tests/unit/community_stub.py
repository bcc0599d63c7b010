"""The part of TimescaleDB's Community edition that the module of policies uses, on plain PostgreSQL.

No package of that edition can be installed here. Names, columns and the keys of a job's configuration are
those of the real views (looked at in 2.19's Apache edition, which has the same views and refuses the calls).
"""

from __future__ import annotations

import re
from typing import Any

import psycopg2.extensions

from stationkeeper.database.connection import connect

_STUB = """
CREATE SCHEMA timescaledb_information;
CREATE TABLE timescaledb_information.hypertables (hypertable_schema name, hypertable_name name);
CREATE TABLE timescaledb_information.continuous_aggregates (view_schema name, view_name name,
  materialization_hypertable_schema name, materialization_hypertable_name name);
CREATE TABLE timescaledb_information.compression_settings (hypertable_schema name, hypertable_name name,
  attname name, segmentby_column_index smallint, orderby_column_index smallint, orderby_asc boolean,
  orderby_nullsfirst boolean);
CREATE TABLE timescaledb_information.jobs (job_id int GENERATED ALWAYS AS IDENTITY, proc_name name,
  schedule_interval interval, config jsonb, hypertable_schema name, hypertable_name name);

CREATE FUNCTION add_job_(relation regclass, proc name, every interval, config jsonb) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE named record; identifier int;
BEGIN
  SELECT nspname, relname INTO named FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
  WHERE c.oid = relation;
  PERFORM FROM timescaledb_information.jobs
  WHERE proc_name = proc AND hypertable_name = named.relname AND hypertable_schema = named.nspname;
  IF FOUND THEN RAISE EXCEPTION '% exists for %', proc, relation; END IF;
  INSERT INTO timescaledb_information.jobs (proc_name, schedule_interval, config, hypertable_schema,
    hypertable_name)
  VALUES (proc, every, config || '{"hypertable_id": 1}', named.nspname, named.relname)
  RETURNING job_id INTO identifier;
  RETURN identifier;
END $$;
CREATE FUNCTION remove_job_(relation regclass, proc name) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM timescaledb_information.jobs
  WHERE proc_name = proc AND format('%I.%I', hypertable_schema, hypertable_name)::regclass = relation;
  IF NOT FOUND THEN RAISE EXCEPTION 'no % for %', proc, relation; END IF;
END $$;
CREATE FUNCTION add_retention_policy(relation regclass, drop_after interval) RETURNS int LANGUAGE sql AS $$
  SELECT add_job_($1, 'policy_retention', '1 day', jsonb_build_object('drop_after', $2)) $$;
CREATE FUNCTION remove_retention_policy(relation regclass) RETURNS void LANGUAGE sql AS $$
  SELECT remove_job_($1, 'policy_retention') $$;
CREATE FUNCTION add_compression_policy(hypertable regclass, compress_after interval) RETURNS int
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM timescaledb_information.compression_settings;
  IF NOT FOUND THEN RAISE EXCEPTION 'columnstore not enabled on hypertable'; END IF;
  RETURN add_job_($1, 'policy_compression', '12 hours', jsonb_build_object('compress_after', $2));
END $$;
CREATE FUNCTION remove_compression_policy(hypertable regclass) RETURNS boolean LANGUAGE sql AS $$
  SELECT remove_job_($1, 'policy_compression'); SELECT true $$;
CREATE FUNCTION add_continuous_aggregate_policy(continuous_aggregate regclass, start_offset interval,
  end_offset interval, schedule_interval interval) RETURNS int LANGUAGE sql AS $$
  SELECT add_job_($1, 'policy_refresh_continuous_aggregate', $4,
    jsonb_build_object('start_offset', $2, 'end_offset', $3)) $$;
CREATE FUNCTION remove_continuous_aggregate_policy(continuous_aggregate regclass) RETURNS void LANGUAGE sql
AS $$ SELECT remove_job_($1, 'policy_refresh_continuous_aggregate') $$;

SET allow_system_table_mods = on;
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
  SELECT 99999, 'timescaledb', 10, oid, false, '2.19.3' FROM pg_namespace WHERE nspname = 'public';
"""
_SETTINGS = re.compile(
    r'ALTER TABLE "(\w+)"\."(\w+)" SET \(timescaledb\.compress,'
    r" timescaledb\.compress_segmentby = '([^']*)', timescaledb\.compress_orderby = '([^']*)'\)"
)
_DELETE = (
    "DELETE FROM timescaledb_information.compression_settings"
    " WHERE hypertable_schema = %s AND hypertable_name = %s"
)
_INSERT = "INSERT INTO timescaledb_information.compression_settings VALUES (%s, %s, %s, %s, %s, %s, %s)"


class _Cursor(psycopg2.extensions.cursor):
    """Plain PostgreSQL has no storage parameter of that name: the statement is carried out here."""

    def execute(self, query: Any, values: Any = None) -> None:
        text = query if isinstance(query, str) else query.as_string(self)
        match = _SETTINGS.fullmatch(text)
        if not match:
            super().execute(query, values)
            return
        schema, table, segment_by, order_by = match.groups()
        super().execute(_DELETE, (schema, table))
        for number, column in enumerate(filter(None, segment_by.split(", ")), start=1):
            super().execute(_INSERT, (schema, table, column, number, None, None, None))
        for number, entry in enumerate(order_by.split(", "), start=1):
            column, _, direction = entry.partition(" ")
            descends = direction == "DESC"
            super().execute(_INSERT, (schema, table, column, None, number, not descends, descends))


def make_community(settings: dict[str, Any], *hypertables: str, views: tuple[str, ...] = ()) -> Any:
    """Return a connection to the database, which now looks like one with that edition."""
    with connect(settings) as connection, connection.cursor() as cursor:
        cursor.execute(_STUB)
        cursor.execute(f"ALTER DATABASE {settings['name']} SET timescaledb.license = 'timescale'")
        for table in hypertables:
            cursor.execute(
                "INSERT INTO timescaledb_information.hypertables VALUES (%s, %s)", table.split(".")
            )
        for view in views:
            cursor.execute(
                "INSERT INTO timescaledb_information.continuous_aggregates VALUES (%s, %s, 'internal', 'm')",
                view.split("."),
            )
    connection.close()
    connection = connect(settings)
    connection.cursor_factory = _Cursor
    return connection
