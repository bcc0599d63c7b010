"""Is a database there at all? Check mode on a fresh host must tell "not yet" from "broken".

Standard library only (psycopg2 is imported where used): Ansible ships this file to the database host.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .connection import DEFAULT_PORT, connect


def why_absent(settings: Mapping[str, Any]) -> str | None:
    """Return why the database of ``settings`` does not exist yet, or None when it does.

    Only a driver, a server socket or a database that was never made counts. A server that is there and does
    not answer raises ``psycopg2.OperationalError``.
    """
    try:
        import psycopg2  # noqa: F401 (only its presence matters)
    except ImportError:
        return "python3-psycopg2 is not installed yet"
    sockets = [Path(str(host)) for host in settings["hosts"] if str(host).startswith("/")]
    port = settings.get("port") or DEFAULT_PORT
    if sockets and not any((socket.parent / socket.name / f".s.PGSQL.{port}").exists() for socket in sockets):
        # A server that was stopped removes its socket too, but its cluster is still configured.
        clusters = Path("/etc/postgresql")
        if not clusters.is_dir() or not any(clusters.iterdir()):
            return "no PostgreSQL cluster exists yet"
    connection = connect({**settings, "name": "postgres"})
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (settings["name"],))
            return None if cursor.fetchone() else f"database {settings['name']} does not exist yet"
    finally:
        connection.close()
