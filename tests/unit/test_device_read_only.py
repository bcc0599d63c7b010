"""A battery in commissioning is measured and never written to: the whole controller against a simulator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from controller_process import Station, wait_until

from stationkeeper.station.declared import DeclarationError, controller_devices

WRITES = {5, 6, 15, 16, 22, 23}
BATTERY = {
    "name": "B1",
    "type": "bess",
    "profile": "generic_battery",
    "modbus": {"host": "192.0.2.1", "unit": 1},
    "rating_kw": 100,
    "capacity_kwh": 200,
}


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    made = Station(tmp_path)
    made.start_simulator()
    yield made
    made.end()


def set_writes(station: Station, *, enabled: bool) -> None:
    station.config["devices"]["bess"][0]["writes_enabled"] = enabled
    (station.etc / "config.yaml").write_text(yaml.safe_dump(station.config))


def writes(station: Station) -> int:
    return sum(entry["function"] in WRITES for entry in station.served_entries())


@pytest.mark.criterion("DV-3")
def test_commissioning_is_read_only_until_writes_are_enabled(station: Station) -> None:
    set_writes(station, enabled=False)
    station.start_controller()
    wait_until(lambda: len(station.served_samples()) >= 8, "samples of both devices")
    # The latch is a decision of the controller too: the stop reaches such a battery over Modbus directly.
    assert station.call("latch", "set", "--reason=test").returncode == 0
    wait_until(lambda: station.metric("emergency_stop_latched") == 1, "the latch")
    seen = len(station.served_samples())
    wait_until(lambda: len(station.served_samples()) >= seen + 4, "samples after the latch")
    station.reload()
    assert station.stop_controller() == 0
    assert writes(station) == 0

    assert station.call("latch", "clear").returncode == 0
    station.start_controller()
    seen = len(station.served_samples())
    wait_until(lambda: len(station.served_samples()) >= seen + 2, "samples again")
    assert writes(station) == 0
    set_writes(station, enabled=True)
    station.reload()
    wait_until(lambda: 50.0 in station.commanded_kw(), "a set-point")

    set_writes(station, enabled=False)
    station.reload()
    wait_until(lambda: station.commanded_kw()[-1] == 0, "the zero that it is left with")
    count, seen = writes(station), len(station.served_samples())
    wait_until(lambda: len(station.served_samples()) >= seen + 4, "samples that go on")
    assert station.stop_controller() == 0
    assert writes(station) == count


def test_the_declaration_carries_the_state() -> None:
    (declared,) = controller_devices([{**BATTERY, "writes_enabled": False}], "flux", "WLCE")["bess"]
    assert declared["writes_enabled"] is False
    assert "writes_enabled" not in controller_devices([BATTERY], "flux", "WLCE")["bess"][0]
    with pytest.raises(DeclarationError, match="write true or false"):
        controller_devices([{**BATTERY, "writes_enabled": "no"}], "flux", "WLCE")
    meter = {**BATTERY, "type": "meter", "profile": "generic_meter", "writes_enabled": False}
    with pytest.raises(DeclarationError, match="only read"):
        controller_devices([meter], "flux", "WLCE")
