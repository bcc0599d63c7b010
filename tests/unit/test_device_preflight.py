"""New devices on their bus: simulated ones over real Modbus TCP, asked by the module itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modbus_rig import BATTERY, Rig
from module_runner import run_module

from stationkeeper.devices.preflight import look_at_new
from stationkeeper.station.devices import Pace, Target, excesses

READS = {1, 2, 3, 4}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "served.jsonl")
    yield made
    made.close()


def device(name: str, port: int, unit: int, profile: str, **more: Any) -> dict[str, Any]:
    kind = "meter" if profile == "generic_meter" else "bess"
    modbus = {"host": "127.0.0.1", "port": port, "unit": unit}
    return {"name": name, "type": kind, "profile": profile, "modbus": modbus, "rating_kw": 100, **more}


def look(devices: list[dict[str, Any]], tmp_path: Path, *options: str) -> dict[str, Any]:
    # The devices' own beat is faster than this, so that two samples always differ.
    arguments = {"devices": devices, "state": "identified", "samples": 2, "interval_s": 1.5, "timeout_s": 2}
    return run_module(tmp_path, "edge_devices", arguments, *options)


@pytest.mark.criterion("DV-2")
def test_a_right_device_is_identified_with_reads_only_and_one_connection(rig: Rig, tmp_path: Path) -> None:
    port = rig.station(power_kw=40)
    found = look(
        [device("B", port, 1, "generic_battery"), device("M", port, 2, "generic_meter")], tmp_path, "--check"
    )
    assert found["problems"] == [], found
    assert [len(seen["samples"]) for seen in found["evidence"].values()] == [2, 2]
    served = [entry for entry in rig.served if "function" in entry]
    assert {entry["function"] for entry in served} <= READS
    assert len({entry["client"] for entry in served}) == 1
    assert {entry["unit"] for entry in served} == {1, 2}


@pytest.mark.criterion("DV-2")
def test_a_wrong_or_missing_device_is_told(rig: Rig, tmp_path: Path) -> None:
    port = rig.station(power_kw=40)
    found = look(
        [
            # The meter's unit, declared as a battery of the same register layout.
            device("SWAPPED", port, 2, "generic_battery"),
            device("ABSENT", port, 9, "generic_battery"),
            device("RIGHT", port, 1, "generic_battery"),
            device("OVER", port, 1, "generic_battery", rating_kw=10),
            device("GONE", 1, 1, "generic_battery"),
        ],
        tmp_path,
    )
    text = json.dumps(found["problems"])
    for name in ("SWAPPED", "ABSENT", "OVER", "GONE"):
        assert name in text, text
    assert "RIGHT" not in text
    assert "its rating 10 kW" in text


@pytest.mark.criterion("DV-2")
def test_a_battery_of_another_model_is_told(rig: Rig) -> None:
    model = BATTERY.identity[1]
    other = BATTERY.model_copy(update={"identity": (model.model_copy(update={"equals": 9}),)})
    target = Target("B", other, "127.0.0.1", rig.station(), 1, 100)
    seen = asyncio.run(look_at_new([target], Pace(samples=1, timeout_s=2)))
    assert excesses(target, seen["B"]) == [
        "B is not what its profile generic_battery says: model_id is 1, not 9"
    ]
