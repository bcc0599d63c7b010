"""Rows of the device registry: from the inventory, planned, and written to a real PostgreSQL."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from stationkeeper.database.connection import connect
from stationkeeper.registry.identity import device_id
from stationkeeper.registry.rows import (
    RegistryError,
    Row,
    from_mapping,
    from_station,
    lock,
    plan,
    read,
    write,
)

DEVICE: dict[str, Any] = {
    "name": "WLCE-BESS-01",
    "type": "bess",
    "profile": "generic_battery",
    "modbus": {"host": "192.0.2.1", "port": 502, "unit": 1},
    "rating_kw": 100,
    "cadence_s": 60,
}
ROW = from_station("flux", "wlce", "WLCE", [DEVICE])[0]


def changed(**values: Any) -> Row:
    """Return the row with other values."""
    return from_mapping({**ROW.as_dict(), **values})


def test_a_station_becomes_rows_with_stable_identifiers() -> None:
    assert ROW.id == str(device_id("flux", "WLCE", "WLCE-BESS-01"))
    assert ROW.metadata == {"station": "wlce", "modbus": DEVICE["modbus"], "rating_kw": 100}
    assert from_mapping(ROW.as_dict()) == ROW
    own = from_station("flux", "wlce", "WLCE", [{**DEVICE, "id": "AAAAAAAA-0000-4000-8000-000000000000"}])[0]
    assert own.id == "aaaaaaaa-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": ""}, "no name"),
        ({"type": "solar"}, "type is 'solar'"),
        ({"profile": None}, "profile is missing"),
        ({"cadence_s": "soon"}, "not a number"),
        ({"cadence_s": 0}, "above 0"),
        ({"active_to": "2026-01-31 12:00"}, "no time zone"),
        ({"active_to": "yesterday"}, "not an RFC 3339 time"),
        ({"name": "A/B"}, "must not contain"),
    ],
)
def test_a_wrong_declaration_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        from_station("flux", "wlce", "WLCE", [{**DEVICE, **values}])


def test_plan_inserts_updates_and_reports_the_unlisted() -> None:
    assert plan([], [ROW]).inserts == (ROW,)
    assert plan([ROW], [ROW]).unchanged == 1
    assert plan([ROW], [changed(cadence_s=30)]).updates == ((ROW, changed(cadence_s=30)),)
    assert plan([ROW], []).unlisted == ("WLCE-BESS-01",)
    assert plan([changed(active_to="2026-01-01T00:00:00Z")], []).unlisted == ()


def test_times_that_the_inventory_leaves_open_stay() -> None:
    known = changed(active_from="2026-01-01T00:00:00Z", active_to="2026-06-01T00:00:00Z")
    served = changed(active_from="2026-01-01T00:00:00Z")
    assert plan([served], [ROW]).updates == ()
    later = plan([known], [changed(active_to="2026-07-01T00:00:00Z")]).updates[0][1]
    assert later.active_from == known.active_from
    assert later.active_to == datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("current", "wanted", "message"),
    [
        ([], [ROW, ROW], "used twice"),
        ([ROW], [changed(type="meter")], "type cannot change"),
        ([ROW], [changed(site="HMCE")], "site cannot change"),
        ([ROW], [changed(id="00000000-0000-4000-8000-000000000000")], "the registry has this name"),
        ([changed(active_to="2026-01-01T00:00:00Z")], [ROW], "never used again"),
    ],
)
def test_plan_refuses(current: list[Row], wanted: list[Row], message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        plan(current, wanted)


@pytest.fixture
def registry(postgres_settings: dict[str, Any]) -> Any:
    """A database with the registry's table as the migration makes it."""
    script = (Path(__file__).parents[2] / "migrations/flux/0001_telemetry.sql").read_text()
    table = script[script.index("CREATE TABLE flux.mg_device_registry") :]
    connection = connect(postgres_settings)
    assert read(connection) is None
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA flux; " + table[: table.index(";") + 1])
    connection.commit()
    yield connection
    connection.close()


def test_converges_a_real_table(registry: Any) -> None:
    wanted = [ROW, changed(id="00000000-0000-4000-8000-000000000000", name="WLCE-METER-01", type="meter")]
    lock(registry)
    write(registry, plan([], wanted))
    registry.commit()
    found = read(registry) or []
    assert [row.name for row in found] == ["WLCE-BESS-01", "WLCE-METER-01"]
    assert all(row.active_from for row in found)
    assert plan(found, wanted).unchanged == 2
    renamed = changed(name="WLCE-BESS-A", cadence_s=0.5, active_to="2099-01-01T00:00:00Z")
    write(registry, plan(found, [renamed, wanted[1]]))
    registry.commit()
    again = read(registry) or []
    assert [(row.name, row.cadence_s) for row in again] == [("WLCE-BESS-A", 0.5), ("WLCE-METER-01", 60.0)]
    assert plan(again, [renamed, wanted[1]]).unchanged == 2
