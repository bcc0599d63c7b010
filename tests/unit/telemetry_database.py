"""The telemetry tables of migration 0001 on plain PostgreSQL, and rows for them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from psycopg2.extras import execute_values

from stationkeeper.database.connection import connect

ROOT = Path(__file__).resolve().parents[2]


def create_tables(settings: dict[str, Any]) -> Connection:
    """Create the tables as the real migration does, without what needs TimescaleDB or roles."""
    text = (ROOT / "migrations/flux/0001_telemetry.sql").read_text()
    connection = connect(settings)
    with connection, connection.cursor() as cursor:
        for statement in text.split(";\n"):
            code = "\n".join(line for line in statement.splitlines() if not line.startswith("--")).strip()
            if code.startswith(("CREATE SCHEMA", "CREATE TABLE")):
                cursor.execute(code)
    return connection


def add_device(
    connection: Connection,
    name: str,
    *,
    cadence_s: float,
    active_from: datetime,
    active_to: datetime | None = None,
    kind: str = "bess",
    site: str = "WLCE",
) -> str:
    """Register a device and return its id."""
    identifier = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
    profile = "generic_battery" if kind == "bess" else "generic_meter"
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO flux.mg_device_registry"
            " (id, name, type, site, profile, cadence, active_from, active_to)"
            " VALUES (%s, %s, %s, %s, %s, make_interval(secs => %s), %s, %s)",
            (identifier, name, kind, site, profile, cadence_s, active_from, active_to),
        )
    return identifier


def add_rows(connection: Connection, device: str, times: Iterable[datetime], *, kind: str = "bess") -> None:
    """Store a bare row for each moment."""
    with connection, connection.cursor() as cursor:
        query = f"INSERT INTO flux.mg_{kind}_readings (device_id, time) VALUES %s ON CONFLICT DO NOTHING"
        execute_values(cursor, query, [(device, moment) for moment in times], page_size=1000)
