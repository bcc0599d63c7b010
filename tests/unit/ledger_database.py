"""The telemetry tables with the gap ledger, as the owner of the database makes them."""

from __future__ import annotations

from typing import Any

from maintenance_database import ROLES, create_all_tables
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import ROOT

from stationkeeper.database.statements import split

__all__ = ["ROLES", "create_ledger_tables"]

_TABLES = ("mg_device_registry", "mg_bess_readings", "mg_meter_readings")


def create_ledger_tables(settings: dict[str, Any]) -> Connection:
    """Create all tables; the ledger's by ``flux_owner``, which owns the database and is no superuser."""
    connection = create_all_tables(settings)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = 'flux_owner'")
        if not cursor.fetchone():
            cursor.execute("CREATE ROLE flux_owner NOLOGIN")
        cursor.execute(f'ALTER DATABASE "{settings["name"]}" OWNER TO flux_owner')
        cursor.execute("ALTER SCHEMA flux OWNER TO flux_owner")
        for table in _TABLES:
            cursor.execute(f"ALTER TABLE flux.{table} OWNER TO flux_owner")
        cursor.execute("GRANT SELECT, INSERT ON flux.mg_bess_readings, flux.mg_meter_readings TO flux_writer")
        cursor.execute("CREATE SCHEMA ops AUTHORIZATION flux_owner")
        cursor.execute("GRANT USAGE ON SCHEMA ops TO flux_reader, flux_operator")
        cursor.execute("SET LOCAL ROLE flux_owner")
        cursor.execute(
            "CREATE TABLE ops.retention (relation text PRIMARY KEY, dropped_before timestamptz NOT NULL,"
            " dropped_at timestamptz NOT NULL DEFAULT now())"
        )
        cursor.execute("GRANT SELECT ON ops.retention TO flux_reader, flux_operator")
        for name in ("0007_gap_ledger", "0010_coverage_holes"):
            for statement in split((ROOT / f"migrations/flux/{name}.sql").read_text()):
                cursor.execute(statement.text)
        cursor.execute("RESET ROLE")
    return connection
