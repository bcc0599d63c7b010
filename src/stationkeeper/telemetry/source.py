"""Where telemetry lies, and transactions on it whose errors an operator understands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stationkeeper.database.connection import SettingsError, connect

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

REGISTRY = "mg_device_registry"
MAINTENANCE = "mg_maintenance"
KNOWN_GAPS = "mg_known_gaps"
LEDGER = "mg_gap_ledger"
BATCHES = "mg_backfill_batch"
COVERAGE = "mg_coverage_hourly"
COVERAGE_STATE = "mg_coverage_state"
QUARANTINE = "mg_quarantine"
ARCHIVED = "mg_archive_day"
ANOMALIES = "mg_anomaly"
# In schema `ops`.
RETENTION = "retention"
READINGS: Mapping[str, str] = {"bess": "mg_bess_readings", "meter": "mg_meter_readings"}


class TelemetryError(Exception):
    """The question cannot be answered; the message says why, for an operator, without a secret."""


@dataclass(frozen=True)
class Device:
    """A registry row. The cadence is in seconds."""

    id: str
    name: str
    site: str
    type: str
    profile: str
    cadence_s: float


def parse_time(text: str) -> datetime:
    """Return an RFC 3339 time. Raises TelemetryError when it is none, or has no offset from UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise TelemetryError(f"{text!r} is not an RFC 3339 time such as 2026-01-31T12:00:00Z") from None
    return aware(moment)


def aware(moment: datetime) -> datetime:
    """Return the moment in UTC. Raises TelemetryError when it has no offset: it would mean many moments."""
    if moment.tzinfo is None:
        raise TelemetryError(
            f"{moment.isoformat()} has no offset from UTC; write {moment.isoformat()}Z or …+01:00"
        )
    return moment.astimezone(UTC)


def rfc3339(moment: datetime) -> str:
    """Return a moment as text in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


@contextmanager
def connected(settings: Mapping[str, Any], *, connect_timeout_s: int = 5) -> Iterator[Connection]:
    """Connect to the database. Raises TelemetryError when it cannot be used."""
    import psycopg2

    try:
        connection = connect(
            settings, application_name="stationkeeper-telemetry", connect_timeout_s=connect_timeout_s
        )
    except SettingsError as error:
        raise TelemetryError(str(error)) from None
    except psycopg2.Error as error:
        raise TelemetryError(f"the database cannot be reached: {one_line(error)}") from None
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def reading(settings: Mapping[str, Any], *, connect_timeout_s: int = 5) -> Iterator[Connection]:
    """Connect for reading only. Raises TelemetryError when the database cannot be used."""
    with connected(settings, connect_timeout_s=connect_timeout_s) as connection:
        connection.set_session(readonly=True)
        yield connection


@contextmanager
def snapshot(connection: Connection, *, timeout_s: float) -> Iterator[Cursor]:
    """Run statements on one consistent, read-only state, each within ``timeout_s`` seconds.

    Raises TelemetryError for what the database refuses.
    """
    with _transaction(connection, timeout_s) as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield cursor


@contextmanager
def changing(connection: Connection, *, timeout_s: float) -> Iterator[Cursor]:
    """Run statements that are committed together, each within ``timeout_s`` seconds.

    Raises TelemetryError for what the database refuses; nothing is changed then.
    """
    with _transaction(connection, timeout_s) as cursor:
        yield cursor
        connection.commit()


@contextmanager
def _transaction(connection: Connection, timeout_s: float) -> Iterator[Cursor]:
    import psycopg2

    connection.rollback()
    try:
        with connection.cursor() as cursor:
            # No query yet: a transaction's characteristics can still be set after it.
            cursor.execute("SET LOCAL statement_timeout = %s", (f"{int(timeout_s * 1000)}ms",))
            yield cursor
    except psycopg2.errors.QueryCanceled:
        raise TelemetryError(f"the database did not answer within {timeout_s:g} s") from None
    except psycopg2.errors.InsufficientPrivilege as error:
        raise TelemetryError(f"the database user may not do that: {one_line(error)}") from None
    except (psycopg2.errors.UndefinedTable, psycopg2.errors.InvalidSchemaName) as error:
        raise TelemetryError(f"this database holds no telemetry tables: {one_line(error)}") from None
    except psycopg2.Error as error:
        raise TelemetryError(f"the database failed: {one_line(error)}") from None
    finally:
        if not connection.closed:
            connection.rollback()


def check_tables(cursor: Cursor, schema: str) -> None:
    """Refuse telemetry whose times are not ``timestamptz``: without a zone they are ambiguous."""
    columns = [(REGISTRY, "active_from"), (REGISTRY, "active_to")]
    columns += [(table, "time") for table in READINGS.values()]
    cursor.execute(
        "SELECT table_name, column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = %s AND (table_name, column_name) IN %s",
        (schema, tuple(columns)),
    )
    found = {(table, column): kind for table, column, kind in cursor.fetchall()}
    for table, column in columns:
        kind = found.get((table, column))
        if kind is None:
            raise TelemetryError(
                f"column {schema}.{table}.{column} is not there, or this user may not see it"
            )
        if kind != "timestamp with time zone":
            raise TelemetryError(
                f"{schema}.{table}.{column} is of type {kind}; times without a zone are refused"
            )


def has_table(cursor: Cursor, schema: str, table: str) -> bool:
    """Tell whether a table is there; an older database may lack it."""
    cursor.execute("SELECT to_regclass(format('%%I.%%I', %s, %s)) IS NOT NULL", (schema, table))
    return cursor.fetchone() == (True,)


def check_sites(cursor: Cursor, schema: str, sites: Sequence[str] | None) -> None:
    """Refuse an empty registry and sites that it does not know: they would look like no gaps at all."""
    from psycopg2 import sql

    cursor.execute(sql.SQL("SELECT DISTINCT site FROM {}").format(sql.Identifier(schema, REGISTRY)))
    known = {str(row[0]) for row in cursor.fetchall()}
    if not known:
        raise TelemetryError(f"the registry {schema}.{REGISTRY} is empty: there is no device to ask about")
    unknown = sorted(set(sites or ()) - known)
    if unknown:
        raise TelemetryError(
            f"the registry has no device of site {', '.join(unknown)}; sites are {', '.join(sorted(known))}"
        )


def one_line(error: BaseException) -> str:
    """Return the text of a database error on one line."""
    return " ".join(str(error).split()) or type(error).__name__
