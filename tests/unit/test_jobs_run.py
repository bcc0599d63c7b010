"""Runs of jobs on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jobs_database import create_job_tables
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

from stationkeeper.database.connection import connect


@pytest.fixture
def connection(postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    opened = create_job_tables(postgres_settings)
    yield opened
    opened.close()


def test_the_jobs_have_the_least_rights(connection: Connection, postgres_settings: dict[str, Any]) -> None:
    session = connect({**postgres_settings, "user": "flux_jobs"})
    rights = {
        "mg_bess_readings": "SELECT",
        "mg_device_registry": "SELECT",
        "mg_gap_ledger": "SELECT INSERT UPDATE",
        "mg_etl_job": "SELECT INSERT UPDATE",
    }
    with session, session.cursor() as cursor:
        for table, expected in rights.items():
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"):
                cursor.execute("SELECT has_table_privilege(%s, %s)", (f"flux.{table}", right))
                assert cursor.fetchall() == [(right in expected.split(),)], (table, right)
    session.close()
