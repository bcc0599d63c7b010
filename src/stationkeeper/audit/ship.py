"""Copy the chain to ``ops.audit``. The chain itself is the spool: what is not there yet goes next time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stationkeeper.audit import record
from stationkeeper.audit.paths import SETTINGS_VARIABLE, AuditPaths
from stationkeeper.audit.verify import StoredRow
from stationkeeper.database.connection import SettingsError, connect

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

_INSERT = "INSERT INTO ops.audit (chain, seq, at, hash, record) VALUES %s ON CONFLICT (chain, seq) DO NOTHING"
# One transaction stays small enough for the short time-outs.
_BATCH = 5000


class ShipError(Exception):
    """Nothing was shipped; the message says why and holds no secret."""


def settings_file(paths: AuditPaths) -> Path | None:
    """Return the file with the connection settings, None where shipping was never set up."""
    configured = os.environ.get(SETTINGS_VARIABLE)
    if configured:
        return Path(configured)
    return paths.settings if paths.settings.exists() else None


def ship(paths: AuditPaths, settings: Mapping[str, Any], *, timeout_s: int = 2) -> int:
    """Copy every record that ``ops.audit`` lacks, in transactions of 5,000, and return how many.

    ``timeout_s`` bounds each connection attempt and each statement. Raises ShipError when the database cannot
    be used, or when the last copy there is not the record that this chain has.
    """
    import psycopg2

    try:
        connection = _open(settings, timeout_s)
        try:
            return _copy(paths, connection)
        finally:
            connection.close()
    except SettingsError as error:
        raise ShipError(str(error)) from None
    except psycopg2.Error as error:
        raise ShipError(f"the database cannot take records: {_one_line(error)}") from None
    except (OSError, record.RecordError) as error:
        raise ShipError(f"the chain cannot be read: {error}") from None


def fetch(settings: Mapping[str, Any], chain: str, *, timeout_s: int = 5) -> list[StoredRow]:
    """Return the copies of a chain, in order. Raises ShipError."""
    import psycopg2

    try:
        connection = _open(settings, timeout_s)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(
                    "SELECT seq, hash, record FROM ops.audit WHERE chain = %s ORDER BY seq", (chain,)
                )
                return [StoredRow(*row) for row in cursor.fetchall()]
        finally:
            connection.close()
    except (SettingsError, psycopg2.Error) as error:
        raise ShipError(f"the copies cannot be read: {_one_line(error)}") from None


def _copy(paths: AuditPaths, connection: Connection) -> int:
    from psycopg2.extras import execute_values

    copied = 0
    with paths.chain.open("rb") as stream:
        first = record.parse(stream.readline())
        stream.seek(0)
        position = _stored_position(connection, first["chain"])
        # Record n stands on line n.
        previous = list(islice(stream, position[0]))[-1:]
        if position[0] and (not previous or record.parse(previous[0])["hash"] != position[1]):
            raise ShipError(
                f"record {position[0]} in the database is not the one in the chain; "
                "run `stationkeeper audit verify --database`"
            )
        while batch := [_row(line) for line in islice(stream, _BATCH) if line.endswith(b"\n")]:
            with connection, connection.cursor() as cursor:
                execute_values(cursor, _INSERT, batch, page_size=500)
            copied += len(batch)
    return copied


def _stored_position(connection: Connection, chain: str) -> tuple[int, str]:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT seq, hash FROM ops.audit WHERE chain = %s ORDER BY seq DESC LIMIT 1", (chain,))
        row = cursor.fetchone()
    return (int(row[0]), str(row[1])) if row else (0, "")


def _row(line: bytes) -> tuple[str, int, str, str, str]:
    entry = record.parse(line)
    return entry["chain"], entry["seq"], entry["at"], entry["hash"], line.decode("ascii").rstrip("\n")


def _open(settings: Mapping[str, Any], timeout_s: int) -> Connection:
    connection = connect(
        settings,
        application_name="stationkeeper-audit",
        connect_timeout_s=timeout_s,
        tcp_user_timeout_s=timeout_s,
    )
    with connection, connection.cursor() as cursor:
        # For the session, not the transaction: this block commits.
        cursor.execute("SELECT set_config('statement_timeout', %s, false)", (f"{timeout_s}s",))
        cursor.execute("SELECT set_config('lock_timeout', '1s', false)")
    return connection


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
