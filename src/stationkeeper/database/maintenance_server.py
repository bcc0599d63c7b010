"""A session for maintenance on the database host: limits of its own, and which role the server has.

Standard library only: Ansible ships this file to the database host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .connection import connect

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)


@contextmanager
def session(
    settings: Mapping[str, Any], *, lock_timeout_s: float = 5.0, statement_timeout_s: float = 60.0
) -> Iterator[Connection]:
    """Connect in autocommit, whatever role the server has, and close at the end.

    No statement waits longer than ``lock_timeout_s`` for a lock: what waits for an exclusive one has all
    others wait behind it. Raises ``psycopg2.OperationalError`` when the server does not answer.
    """
    connection = connect(settings, application_name="stationkeeper-maintenance", target_session_attrs="any")
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false)",
                (f"{int(lock_timeout_s * 1000)}ms", f"{int(statement_timeout_s * 1000)}ms"),
            )
        yield connection
    finally:
        connection.close()


def is_standby(connection: Connection) -> bool:
    """Return whether the server follows another one, so that nothing can be written to it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_is_in_recovery()")
        row = cursor.fetchone()
    assert row is not None  # A SELECT without FROM has one row.
    return bool(row[0])
