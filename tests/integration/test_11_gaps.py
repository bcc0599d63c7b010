"""Gap detection on the lab's TimescaleDB, against the oracle that plain PostgreSQL is held against too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stationkeeper.database.connection import connect
from stationkeeper.telemetry.coverage import find_gaps_by_hours, refresh
from stationkeeper.telemetry.gaps import find_gaps
from system import LabSystem

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from gap_scenarios import BASE, compare, scenarios, store, windows

SCHEMA = "gap_scenarios"
# The system's own tables, empty and as hypertables, beside it: its stations go on working.
TABLES = f"""
CREATE SCHEMA {SCHEMA};
CREATE TABLE {SCHEMA}.mg_device_registry (LIKE flux.mg_device_registry INCLUDING ALL);
CREATE TABLE {SCHEMA}.mg_bess_readings (LIKE flux.mg_bess_readings INCLUDING DEFAULTS);
CREATE TABLE {SCHEMA}.mg_meter_readings (LIKE flux.mg_meter_readings INCLUDING DEFAULTS);
CREATE TABLE {SCHEMA}.mg_coverage_hourly (LIKE flux.mg_coverage_hourly INCLUDING ALL);
ALTER TABLE {SCHEMA}.mg_bess_readings ADD PRIMARY KEY (device_id, time);
ALTER TABLE {SCHEMA}.mg_meter_readings ADD PRIMARY KEY (device_id, time);
SELECT public.create_hypertable('{SCHEMA}.mg_bess_readings', public.by_range('time', interval '6 hours'));
SELECT public.create_hypertable('{SCHEMA}.mg_meter_readings', public.by_range('time', interval '6 hours'));
GRANT USAGE ON SCHEMA {SCHEMA} TO flux_operator;
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {SCHEMA} TO flux_operator;
"""


def as_superuser(flux: LabSystem, statements: str) -> None:
    psql = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "flux", "-c", statements]
    flux.on_host("fluxdb", "runuser", "-u", "postgres", "--", *psql)


@pytest.fixture
def scratch(flux: LabSystem) -> Iterator[LabSystem]:
    as_superuser(flux, f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE;" + TABLES)
    yield flux
    as_superuser(flux, f"DROP SCHEMA {SCHEMA} CASCADE")


@pytest.mark.criterion("GR-2")
def test_hypertables_give_the_same_gaps(scratch: LabSystem) -> None:
    tables = scratch.query(
        "SELECT num_chunks FROM timescaledb_information.hypertables WHERE hypertable_schema = %s",
        (SCHEMA,),
        role="operator",
    )
    assert len(tables) == 2
    devices = scenarios(550, seed=20260131)
    connection = connect(scratch.database_settings("operator"))
    try:
        store(connection, devices, schema=SCHEMA)
        asked = windows(seed=1)
        gaps = 0
        for start, end, k in asked:
            found = find_gaps(connection, start, end, k=k, schema=SCHEMA, timeout_s=120)
            gaps += compare(found, devices, k)
        assert gaps > 1000
        refresh(connection, BASE.replace(month=9), BASE.replace(month=11), schema=SCHEMA)
        for start, end, k in asked:
            fast = find_gaps_by_hours(connection, start, end, k=k, schema=SCHEMA, timeout_s=120)
            compare(fast, devices, k)
    finally:
        connection.close()
