"""The telemetry tables with the job table, and the role of the jobs, as the migrations make them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ledger_database import create_ledger_tables
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import ROOT

from stationkeeper.database.statements import split
from stationkeeper.jobs.interface import JobSettings


def create_job_tables(settings: dict[str, Any]) -> Connection:
    """Create all tables; the job table by ``flux_owner``, which gives ``flux_jobs`` its rights."""
    connection = create_ledger_tables(settings)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = 'flux_jobs'")
        if not cursor.fetchone():
            cursor.execute("CREATE ROLE flux_jobs")
        cursor.execute("ALTER ROLE flux_jobs LOGIN PASSWORD %s", (settings["password"],))
        cursor.execute("ALTER TABLE flux.mg_meter_readings_5m_intermediate OWNER TO flux_owner")
        cursor.execute("ALTER TABLE flux.mg_known_gaps OWNER TO flux_owner")
        cursor.execute("ALTER TABLE flux.mg_maintenance OWNER TO flux_owner")
        cursor.execute("SET LOCAL ROLE flux_owner")
        for statement in split((ROOT / "migrations/flux/0008_etl_jobs.sql").read_text()):
            cursor.execute(statement.text)
        cursor.execute("RESET ROLE")
    return connection


@contextmanager
def start_hanging(settings: JobSettings, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start a job that hangs in the database, wait until it does, and kill it in the end."""
    path = settings.metrics_directory / "database.json"
    path.write_text(json.dumps(dict(settings.database)))
    program = Path(__file__).with_name("job_worker.py")
    command = [sys.executable, str(program), str(path), "gap_watch", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "working\n"
            yield worker
        finally:
            worker.kill()


def sessions(connection: Connection) -> int:
    """Count the sessions of runs of gap_watch in this database."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ 'job gap_watch [0-9]'"
            " AND datname = current_database()"
        )
        return int((cursor.fetchone() or (0,))[0])
