"""What adding and removing devices comes to, and what is refused before anything is touched."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stationkeeper.commissioning.session import commissioned, write_report
from stationkeeper.commissioning.types import Check, Report
from stationkeeper.devices.adding import Addition, plan_addition
from stationkeeper.devices.declarations import Station, address
from stationkeeper.devices.removing import Removal, plan_removal
from stationkeeper.registry.identity import device_id
from stationkeeper.registry.rows import Row, from_station

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
EARLIER = datetime(2026, 6, 1, tzinfo=UTC)


def battery(name: str = "W-B1", unit: int = 1, **more: Any) -> dict[str, Any]:
    modbus = {"host": "192.0.2.21", "port": 502, "unit": unit}
    values = {"rating_kw": 100, "capacity_kwh": 200, "cadence_s": 2}
    return {"name": name, "type": "bess", "profile": "generic_battery", "modbus": modbus, **values, **more}


def meter(name: str = "W-M1", unit: int = 2, measures: str = "W-B1", **more: Any) -> dict[str, Any]:
    modbus = {"host": "192.0.2.21", "port": 502, "unit": unit}
    kind = {"type": "meter", "profile": "generic_meter", "measures": measures, "cadence_s": 2}
    return {"name": name, "modbus": modbus, **kind, **more}


NEW = battery("W-B2", 3, writes_enabled=False)
NEW_METER = meter("W-M2", 4, "W-B2")
BASE = (battery(), meter())


def station(*devices: dict[str, Any], name: str = "wlce", site: str = "WLCE") -> Station:
    return Station(name, site, tuple(devices))


def rows(*devices: dict[str, Any], name: str = "wlce", site: str = "WLCE") -> list[Row]:
    found = from_station("flux", name, site, devices)
    return [replace(row, active_from=LONG_AGO) for row in found]


def add(
    *devices: dict[str, Any],
    known: list[Row] | None = None,
    names: tuple[str, ...] = (),
    others: tuple[Station, ...] = (),
    enable_writes: bool = False,
) -> Addition:
    registered = rows(*BASE) if known is None else known
    stations = [station(*devices), *others]
    return plan_addition("flux", stations, registered, ["wlce"], names, enable_writes=enable_writes)["wlce"]


def remove(*devices: dict[str, Any], known: list[Row], names: tuple[str, ...]) -> Removal:
    return plan_removal("flux", [station(*devices)], known, ["wlce"], names)["wlce"]


def named(items: list[Any]) -> list[str]:
    return [item["name"] for item in items]


@pytest.mark.criterion("DV-1")
def test_one_item_gives_row_configuration_and_a_stable_identifier() -> None:
    plan = add(*BASE, NEW, NEW_METER)
    assert plan.problems == []
    assert plan.new == ["W-B2", "W-M2"]
    assert named(plan.before) == ["W-B1", "W-M1"]
    # In the inventory's order, so that the station's file is the one that site.yml would write.
    assert plan.after == [*BASE, NEW, NEW_METER]
    assert [row["id"] for row in plan.rows] == [
        str(device_id("flux", "WLCE", name)) for name in ("W-B2", "W-M2")
    ]


@pytest.mark.criterion("DV-3")
def test_a_new_battery_comes_in_read_only_and_is_enabled_by_a_run_of_its_own() -> None:
    assert "`writes_enabled: false`" in add(*BASE, battery("W-B2", 3)).problems[0]
    (row,) = add(*BASE, NEW).rows
    assert row["metadata"]["writes_enabled"] is False

    commissioning = rows(*BASE, NEW)
    enabled = battery("W-B2", 3)
    early = add(*BASE, enabled, known=commissioning)
    assert "run device_commission, then this runbook with enable_writes=true" in early.problems[0]
    plan = add(*BASE, enabled, known=commissioning, enable_writes=True)
    assert (plan.problems, plan.new, plan.enabling) == ([], [], ["W-B2"])
    assert plan.before[-1]["writes_enabled"] is False
    assert plan.after[-1] == enabled
    assert "writes_enabled" not in plan.rows[0]["metadata"]
    assert plan.rows_before[0]["metadata"]["writes_enabled"] is False
    both = add(
        *BASE, enabled, battery("W-B3", 5, writes_enabled=False), known=commissioning, enable_writes=True
    )
    assert "in a run of its own" in both.problems[0]


@pytest.mark.criterion("DV-3")
def test_writes_are_enabled_only_for_what_was_commissioned_at_that_address(tmp_path: Path) -> None:
    def enable() -> list[str]:
        (plan,) = plan_addition(
            "flux",
            [station(*BASE, battery("W-B2", 3))],
            rows(*BASE, NEW),
            ["wlce"],
            enable_writes=True,
            commissioned=commissioned(tmp_path),
        ).values()
        return plan.problems

    def report(unit: int, *, passed: bool) -> None:
        found = Report("W-B2", f"192.0.2.21:502 unit {unit}", 5.0, [Check("identity", passed, "")])
        write_report(found, {}, tmp_path / str(unit))
        for path in (tmp_path / str(unit)).iterdir():
            path.rename(tmp_path / f"{unit}-{passed}.json")

    report(4, passed=True)
    report(3, passed=False)
    (tmp_path / "cut short.json").write_text("{")
    (problem,) = enable()
    assert "no report of a device_commission that passed at 192.0.2.21:502 unit 3" in problem
    assert "commissioned_elsewhere=true" in problem
    report(3, passed=True)
    assert enable() == []


@pytest.mark.criterion("DV-2")
@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ((battery("W-B2", 1, writes_enabled=False),), "has the same unit and address as W-B1"),
        ((battery("W-B1", 3, writes_enabled=False),), "has the same name as W-B1"),
        (
            (battery("W-B2", 3, writes_enabled=False, id=str(device_id("flux", "WLCE", "W-B1"))),),
            "has the same identifier as W-B1",
        ),
        ((battery("W-B2", 3, profile="no_such"),), "no_such"),
        ((battery("W-B2", 3, profile="generic_meter"),), "profile generic_meter is for meter"),
        ((battery("W-B2", 3, type="solar"),), "type is 'solar'"),
        ((battery("W-B2", 248, writes_enabled=False),), "bess.1.modbus.unit"),
        ((battery("W B2", 3, writes_enabled=False),), "bess.1.name"),
        ((meter("W-M2", 4, "W-B9"),), "which is no battery of this station"),
        ((battery("W-B2", 3, rating_kw=None),), "rating_kw is missing"),
        ((battery("W-B2", 3, cadence_s="soon"),), "not a number"),
    ],
)
def test_wrong_and_doubled_declarations_are_refused(devices: tuple[Any, ...], message: str) -> None:
    assert message in " ".join(add(*BASE, *devices).problems)


@pytest.mark.criterion("DV-2")
def test_names_and_addresses_are_compared_across_stations_and_with_the_registry() -> None:
    same_bus = station(battery("W-X", 3, writes_enabled=False), name="xlce", site="XLCE")
    assert plan_addition("flux", [same_bus, station(*BASE, NEW)], rows(*BASE), ["wlce"])["wlce"].problems == [
        "device W-B2 has the same unit and address as W-X of station xlce; give each its own"
    ]
    # Not declared any more, but still in service.
    left = rows(*BASE, battery("W-OLD", 3))
    assert "W-OLD is in service at unit 3 of 192.0.2.21:502" in add(*BASE, NEW, known=left).problems[0]
    gone = [replace(row, active_to=EARLIER) if row.name == "W-OLD" else row for row in left]
    assert add(*BASE, NEW, known=gone).problems == []
    elsewhere = [*rows(*BASE), *rows(NEW, name="xlce", site="XLCE")]
    elsewhere[-1] = replace(elsewhere[-1], active_to=EARLIER)
    assert "a name is never used twice" in add(*BASE, NEW, known=elsewhere).problems[0]


def test_local_addresses_belong_to_their_station() -> None:
    line = {"host": "/dev/ttyUSB0", "unit": 1}
    assert address("wlce", line) != address("hmce", line)
    assert address("wlce", {"host": "127.0.0.1", "unit": 1}) != address(
        "hmce", {"host": "127.0.0.1", "unit": 1}
    )
    assert address("wlce", {"host": "10.0.0.1", "unit": 1}) == address(
        "hmce", {"host": "10.0.0.1", "unit": 1, "port": 502}
    )


def test_only_the_named_devices_are_added() -> None:
    plan = add(*BASE, NEW, NEW_METER, battery("W-B3", 5, writes_enabled=False), names=("W-B2", "W-M2"))
    assert plan.new == ["W-B2", "W-M2"]
    assert named(plan.after) == ["W-B1", "W-M1", "W-B2", "W-M2"]
    missing = add(*BASE, names=("W-B9",))
    assert "declare it in station_devices of host_vars/wlce.yml first" in missing.problems[0]
    assert "converge it with site.yml" in add(*BASE, known=[]).problems[0]


@pytest.mark.criterion("DV-7")
def test_a_second_run_of_a_hundred_devices_finds_nothing_to_do() -> None:
    batch = [battery(f"W-B{n}", n, writes_enabled=False) for n in range(10, 110)]
    plan = add(*BASE, *batch)
    assert (len(plan.new), plan.problems, plan.changes) == (100, [], True)
    again = add(*BASE, *batch, known=rows(*BASE, *batch))
    assert (again.changes, again.problems, len(again.serving)) == (False, [], 102)
    assert again.before == again.after == plan.after


@pytest.mark.criterion("DV-5")
def test_a_leaving_battery_is_held_then_gone() -> None:
    known = rows(*BASE, battery("W-B2", 3), NEW_METER)
    plan = remove(*BASE, known=known, names=("W-B2", "W-M2"))
    assert plan.problems == []
    assert named(plan.leaving) == ["W-B2", "W-M2"]
    assert named(plan.before) == ["W-B1", "W-M1", "W-B2", "W-M2"]
    assert [item.get("writes_enabled") for item in plan.held] == [None, None, False, None]
    assert plan.after == [*BASE]
    # The registry alone says how to reach and stop it.
    assert plan.leaving[0] | {"id": None} == battery("W-B2", 3) | {"id": None}
    assert [row["active_to"] for row in plan.rows] == [None, None]


@pytest.mark.criterion("DV-5")
def test_a_retired_device_stays_retired() -> None:
    retired = [replace(row, active_to=EARLIER) for row in rows(NEW)]
    again = remove(*BASE, known=[*rows(*BASE), *retired], names=("W-B2",))
    assert (again.problems, again.leaving, again.retired) == ([], [], ["W-B2"])
    back = add(*BASE, NEW, known=[*rows(*BASE), *retired])
    assert "a name and its identifier are never used again" in back.problems[0]


@pytest.mark.parametrize(
    ("declared", "known", "names", "message"),
    [
        ((*BASE, NEW), (*BASE, NEW), ("W-B2",), "take it out of host_vars/wlce.yml first"),
        (BASE, BASE, ("W-B9",), "the registry has none of this name"),
        ((battery(), NEW_METER | {"measures": "W-B2"}), (battery(), NEW, NEW_METER), ("W-B2",), "W-M2"),
        ((), (battery(),), ("W-B1",), "without a device"),
    ],
)
def test_a_removal_that_would_not_hold_is_refused(
    declared: tuple[Any, ...], known: tuple[Any, ...], names: tuple[str, ...], message: str
) -> None:
    assert message in " ".join(remove(*declared, known=rows(*known), names=names).problems)


def test_a_battery_that_cannot_be_found_is_not_called_stopped() -> None:
    bare = [replace(row, metadata={}) if row.name == "W-B2" else row for row in rows(*BASE, NEW)]
    assert "cannot be stopped" in remove(*BASE, known=bare, names=("W-B2",)).problems[0]


def test_a_device_of_another_station_is_not_retired_here() -> None:
    known = [*rows(*BASE), *rows(battery("H-B1"), name="hmce", site="HMCE")]
    assert "none of this name at the target" in remove(*BASE, known=known, names=("H-B1",)).problems[0]
