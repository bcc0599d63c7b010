"""Is a database there at all? Check mode on a fresh server must tell "not yet" from "broken".

Standard library only (psycopg2 comes in with the connection): Ansible ships this file to the database host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .connection import connect


def exists(settings: Mapping[str, Any]) -> bool:
    """Return whether the server has the database ``settings['name']``.

    Raises ``psycopg2.OperationalError`` when the server does not answer.
    """
    connection = connect({**settings, "name": "postgres"})
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (settings["name"],))
            return cursor.fetchone() is not None
    finally:
        connection.close()
