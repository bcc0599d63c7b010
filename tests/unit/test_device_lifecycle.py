"""The database's own guard over a device's life, whoever writes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from device_project import migrated
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import add_device

from stationkeeper.registry import rows as registry

LONG_AGO = datetime.now(UTC) - timedelta(days=2)


@pytest.fixture
def database(postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    connection = migrated(postgres_settings)
    yield connection
    connection.close()


def refused(database: Connection, statement: str) -> str:
    with pytest.raises(psycopg2.errors.RaiseException) as caught, database.cursor() as cursor:
        cursor.execute(statement)
    database.rollback()
    return str(caught.value)


@pytest.mark.criterion("DV-5")
def test_a_retired_device_never_comes_back_and_keeps_its_identifier(database: Connection) -> None:
    add_device(database, "GONE", cadence_s=60, active_from=LONG_AGO, active_to=LONG_AGO + timedelta(hours=1))
    add_device(
        database, "PLANNED", cadence_s=60, active_from=LONG_AGO, active_to=LONG_AGO + timedelta(days=9)
    )
    update = "UPDATE flux.mg_device_registry SET "
    for change in ("active_to = NULL", "active_to = now() + interval '1 day'"):
        assert "never used again" in refused(database, f"{update}{change} WHERE name = 'GONE'")
    assert "identifier cannot change" in refused(
        database, f"{update}id = '00000000-0000-4000-8000-000000000001' WHERE name = 'PLANNED'"
    )
    with database.cursor() as cursor:
        cursor.execute(f"{update}active_to = NULL WHERE name = 'PLANNED'")
        cursor.execute(f"{update}profile = 'other' WHERE name = 'GONE'")


def test_only_the_run_that_registered_a_device_can_take_it_back(database: Connection) -> None:
    device = {"name": "NEW", "type": "bess", "profile": "generic_battery", "cadence_s": 2}
    # Its life began earlier than its row: what counts is the row.
    backdated = {**device, "active_from": LONG_AGO.isoformat()}
    (row,) = registry.from_station("flux", "wlce", "WLCE", [backdated])
    registry.write(database, registry.plan([], [row]))
    database.commit()
    assert registry.forget(database, [row.id]) == ["NEW"]
    assert registry.forget(database, [row.id]) == []
    registry.write(database, registry.plan([], [row]))
    with database.cursor() as cursor:
        cursor.execute("UPDATE flux.mg_device_registry SET registered_at = now() - interval '2 hours'")
    database.commit()
    assert "has a history" in refused(database, "DELETE FROM flux.mg_device_registry WHERE name = 'NEW'")
