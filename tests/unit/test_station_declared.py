"""The inventory's devices in the forms that controller and simulator want, checked by their own readers."""

from __future__ import annotations

from typing import Any

import pytest

from stationkeeper.controller.schema import Devices
from stationkeeper.simulator.config import SimulatorConfig
from stationkeeper.station.declared import DeclarationError, controller_devices, simulator_devices

BATTERY: dict[str, Any] = {
    "name": "A-BESS-01",
    "type": "bess",
    "profile": "generic_battery",
    "modbus": {"host": "192.0.2.1", "unit": "1"},
    "rating_kw": "100",
    "capacity_kwh": 200,
    "cadence_s": 2,
}
METER: dict[str, Any] = {
    "name": "A-METER-01",
    "type": "meter",
    "profile": "generic_meter",
    "modbus": {"host": "192.0.2.1", "port": 1502, "unit": 2},
    "measures": "A-BESS-01",
    "cadence_s": 2,
}


def test_the_controller_accepts_them() -> None:
    found = controller_devices([BATTERY, METER], "flux", "A")
    devices = Devices.model_validate(found)
    assert devices.bess[0].rating_kw == 100
    assert devices.bess[0].modbus.port == 502
    assert devices.meter[0].measures == "A-BESS-01"
    assert found == controller_devices([BATTERY, METER], "flux", "A")
    assert found["bess"][0]["id"] != controller_devices([BATTERY], "flux", "B")["bess"][0]["id"]


def test_a_declared_id_is_kept() -> None:
    own = "6F0D4C1E-3B52-5A6E-9D0B-8F1C2E7A4B90"
    assert controller_devices([{**BATTERY, "id": own}], "flux", "A")["bess"][0]["id"] == own.lower()


def test_the_simulator_accepts_them() -> None:
    config = SimulatorConfig.model_validate(
        {"listen": {"host": "x"}, "log": "/x", "devices": simulator_devices([METER, BATTERY], 60)}
    )
    assert [device.unit for device in config.devices] == [2, 1]
    assert len({device.seed for device in config.devices}) == 2


@pytest.mark.parametrize(
    ("device", "word"),
    [
        ({**BATTERY, "type": "pump"}, "must be bess or meter"),
        ({**BATTERY, "profile": ""}, "profile is missing"),
        ({**BATTERY, "rating_kw": None}, "rating_kw is missing"),
        ({**BATTERY, "modbus": {"host": "x"}}, "modbus.unit is missing"),
        ({"name": "A-BESS-01"}, "type is missing"),
    ],
)
def test_wrong_declarations_are_named(device: dict[str, Any], word: str) -> None:
    with pytest.raises(DeclarationError, match=word):
        controller_devices([device], "flux", "A")
