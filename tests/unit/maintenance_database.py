"""The telemetry tables with known gaps and planned maintenance, as the migrations make them."""

from __future__ import annotations

from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import ROOT, create_tables

from stationkeeper.database.statements import split

ROLES = ("flux_writer", "flux_reader", "flux_operator")


def create_all_tables(settings: dict[str, Any]) -> Connection:
    """Create the tables, and the roles with the rights that the migrations give; all have one password."""
    connection = create_tables(settings)
    with connection, connection.cursor() as cursor:
        for role in ROLES:
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
            if not cursor.fetchone():
                cursor.execute(f"CREATE ROLE {role}")
            cursor.execute(f"ALTER ROLE {role} LOGIN PASSWORD %s", (settings["password"],))
            cursor.execute(f"GRANT USAGE ON SCHEMA flux TO {role}")
            cursor.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA flux TO {role}")
        for name in ("0004_known_gaps", "0006_planned_maintenance"):
            for statement in split((ROOT / f"migrations/flux/{name}.sql").read_text()):
                cursor.execute(statement.text)
    return connection
