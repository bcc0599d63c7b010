"""Migration 0007 as the owner of the database applies it: its guards and its grants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from ledger_database import ROLES, create_ledger_tables
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

from stationkeeper.database.connection import connect

DEVICE = "0b0f9f5e-6d5c-5a10-9d6c-2f7c0c6f0a01"
INSERT = (
    "INSERT INTO flux.mg_gap_ledger (device_id, span, expected, state, reason) VALUES (%s, %s, 1, %s, %s)"
)


@pytest.fixture
def connection(postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    opened = create_ledger_tables(postgres_settings)
    yield opened
    opened.close()


def test_the_owner_needs_no_superuser(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'flux'"
            " AND tablename ~ 'ledger|backfill|coverage|quarantine'"
        )
        assert cursor.fetchall() == [("flux_owner",)]
        cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'flux_owner'")
        assert cursor.fetchall() == [(False,)]


def test_active_gaps_of_a_device_do_not_overlap(connection: Connection) -> None:
    first, second = "(2026-01-01 00:00+00,2026-01-01 01:00+00)", "(2026-01-01 00:30+00,2026-01-01 02:00+00)"
    with connection, connection.cursor() as cursor:
        cursor.execute(INSERT, (DEVICE, first, "open", None))
        # Both gaps end at the same row: no overlap.
        cursor.execute(INSERT, (DEVICE, "(2026-01-01 01:00+00,2026-01-01 02:00+00)", "open", None))
        cursor.execute(INSERT, (DEVICE, second, "recovered", None))
        cursor.execute(INSERT, (DEVICE.replace("0b", "0c"), second, "open", None))
    with pytest.raises(psycopg2.errors.ExclusionViolation), connection, connection.cursor() as cursor:
        cursor.execute(INSERT, (DEVICE, second, "open", None))


@pytest.mark.parametrize(
    ("span", "state", "reason"),
    [
        ("[2026-01-01 00:00+00,2026-01-01 01:00+00)", "open", None),
        ("(2026-01-01 00:00+00,)", "open", None),
        ("empty", "open", None),
        ("(2026-01-01 00:00+00,2026-01-01 01:00+00)", "lost", None),
        ("(2026-01-01 00:00+00,2026-01-01 01:00+00)", "claimed", None),
        ("(2026-01-01 00:00+00,2026-01-01 01:00+00)", "unrecoverable", None),
        ("(2026-01-01 00:00+00,2026-01-01 01:00+00)", "explained", ""),
    ],
)
def test_what_makes_no_sense_is_refused(
    connection: Connection, span: str, state: str, reason: str | None
) -> None:
    with pytest.raises(psycopg2.errors.CheckViolation), connection, connection.cursor() as cursor:
        cursor.execute(INSERT, (DEVICE, span, state, reason))


def test_only_the_operator_writes(connection: Connection, postgres_settings: dict[str, Any]) -> None:
    for role in ROLES:
        session = connect({**postgres_settings, "user": role})
        for table in ("mg_bess_readings", "mg_gap_ledger", "mg_quarantine", "mg_coverage_state"):
            with session, session.cursor() as cursor:
                cursor.execute(
                    "SELECT has_table_privilege(%(table)s, 'INSERT'),"
                    " has_table_privilege(%(table)s, 'DELETE')",
                    {"table": f"flux.{table}"},
                )
                writes = role == "flux_operator" or (role, table) == ("flux_writer", "mg_bess_readings")
                assert cursor.fetchall() == [(writes, False)], (role, table)
        session.close()
