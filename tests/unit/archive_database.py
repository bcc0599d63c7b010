"""Migration 0009 on plain PostgreSQL, and what retention uses of TimescaleDB."""

from __future__ import annotations

from typing import Any

from ledger_database import create_ledger_tables
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import ROOT

from stationkeeper.database.connection import connect
from stationkeeper.database.statements import split

# A chunk is a day of a table here, and dropping it deletes its rows.
_TIMESCALE = """
CREATE SCHEMA timescaledb_information;
CREATE VIEW timescaledb_information.chunks AS
  SELECT DISTINCT 'flux' AS hypertable_schema, name AS hypertable_name, 'flux' AS chunk_schema,
    name AS chunk_name, day AS range_start, day + interval '1 day' AS range_end
  FROM (
    SELECT 'mg_bess_readings' AS name, date_trunc('day', time, 'UTC') AS day FROM flux.mg_bess_readings
    UNION SELECT 'mg_meter_readings', date_trunc('day', time, 'UTC') FROM flux.mg_meter_readings) AS days;
GRANT USAGE ON SCHEMA timescaledb_information TO flux_owner;
GRANT SELECT ON timescaledb_information.chunks TO flux_owner;
CREATE FUNCTION public.drop_chunks(relation regclass, older_than timestamptz) RETURNS SETOF text
LANGUAGE plpgsql AS $$
BEGIN
  RETURN QUERY SELECT chunk_name FROM timescaledb_information.chunks
  WHERE format('%I.%I', hypertable_schema, hypertable_name)::regclass = relation AND range_end <= older_than;
  EXECUTE format('DELETE FROM %s WHERE time < $1', relation) USING older_than;
END $$;
CREATE FUNCTION flux.refresh_meter_readings_5m(a timestamptz, b timestamptz) RETURNS bigint
LANGUAGE sql AS 'SELECT 0::bigint';
"""


def add_archive_tables(settings: dict[str, Any], *, timescale: bool = False) -> None:
    """Apply 0009 as the owner of the database; with ``timescale`` as much of that as retention calls."""
    connection = connect(settings)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = 'flux_jobs'")
        if not cursor.fetchone():
            cursor.execute("CREATE ROLE flux_jobs")
        if timescale:
            cursor.execute(_TIMESCALE)
        cursor.execute("SET LOCAL ROLE flux_owner")
        for statement in split((ROOT / "migrations/flux/0009_archive_and_anomalies.sql").read_text()):
            cursor.execute(statement.text)
    connection.close()


def create_archive_tables(settings: dict[str, Any], *, timescale: bool = False) -> Connection:
    """Create all tables up to 0009."""
    connection = create_ledger_tables(settings)
    add_archive_tables(settings, timescale=timescale)
    return connection
