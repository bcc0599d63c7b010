"""Physics of the simulated battery and meter."""

from __future__ import annotations

from typing import Any

import pytest

from stationkeeper.simulator.battery import (
    ALARM_WATCHDOG,
    START,
    STATUS_CHARGING,
    STATUS_DISCHARGING,
    STATUS_FALLBACK,
    STATUS_STANDBY,
    STATUS_STOPPED,
    STOP,
    Battery,
    BatterySettings,
    Grid,
    WriteRefusedError,
)
from stationkeeper.simulator.meter import Meter

STEP_S = 0.25


def battery(**changes: Any) -> Battery:
    settings: dict[str, Any] = {
        "rating_kw": 100,
        "capacity_kwh": 200,
        "initial_soe_percent": 50,
        "noise_kw": 0.3,
        "ramp_kw_per_s": 40,
        "watchdog_timeout_s": 0,
        "fallback": "zero",
    }
    return Battery(BatterySettings(**(settings | changes)), Grid(1), 1)


def advance(device: Battery, seconds: float, meter: Meter | None = None) -> list[float]:
    powers = []
    for _ in range(round(seconds / STEP_S)):
        device.grid.step(STEP_S)
        device.step(STEP_S)
        if meter:
            meter.step(STEP_S)
        powers.append(device.power_kw)
    return powers


def test_equal_seeds_give_equal_histories() -> None:
    histories = []
    for _ in range(2):
        device = battery()
        device.write("power_command_kw", 30)
        advance(device, 60)
        histories.append(dict(device.values()))
    assert histories[0] == histories[1]


def test_ramps_to_the_set_point_and_stays_within_the_noise() -> None:
    device = battery()
    device.write("power_command_kw", 50)
    powers = advance(device, 10)
    assert powers[0] == pytest.approx(10, abs=0.3)
    assert all(abs(power - 50) <= 0.3 for power in powers[5:])
    assert len(set(powers[5:])) > 10
    assert device.values()["status"] == STATUS_DISCHARGING
    device.write("power_command_kw", 0)
    assert all(abs(power) <= 0.3 for power in advance(device, 10)[5:])
    assert device.values()["status"] == STATUS_STANDBY


@pytest.mark.parametrize(("power_kw", "cells_kwh"), [(50, -50 / 0.96), (-50, 50 * 0.96)])
def test_energy_moves_with_efficiency(power_kw: float, cells_kwh: float) -> None:
    device = battery(noise_kw=0, ramp_kw_per_s=1e6)
    device.write("power_command_kw", power_kw)
    advance(device, 3600)
    assert device.values()["soe_percent"] == pytest.approx(50 + cells_kwh / 2, abs=0.01)
    assert device.values()["temperature_c"] > 25


@pytest.mark.parametrize(("power_kw", "soe"), [(100, 0.5), (-100, 99.5)])
def test_power_ends_at_empty_and_full(power_kw: float, soe: float) -> None:
    device = battery(initial_soe_percent=soe, noise_kw=0)
    device.write("power_command_kw", power_kw)
    advance(device, 120)
    assert abs(device.power_kw) <= 10
    assert 0 <= device.values()["soe_percent"] <= 100
    device.write("power_command_kw", -power_kw)
    advance(device, 10)
    assert device.power_kw == pytest.approx(-power_kw)


def test_stop_opens_the_contactor_and_start_replays_nothing() -> None:
    device = battery()
    device.write("power_command_kw", -50)
    advance(device, 5)
    assert device.values()["status"] == STATUS_CHARGING
    device.write("operating_command", STOP)
    device.write("power_command_kw", 50)
    assert set(advance(device, 5)) == {0.0}
    assert device.values()["setpoint_kw"] == 0
    assert device.values()["status"] == STATUS_STOPPED
    device.write("operating_command", START)
    assert all(abs(power) <= 0.3 for power in advance(device, 5))


def test_refuses_what_it_cannot_do() -> None:
    device = battery()
    for name, value in (("power_command_kw", 100.1), ("operating_command", 2)):
        with pytest.raises(WriteRefusedError):
            device.check(name, value)


@pytest.mark.parametrize(
    ("fallback", "power_kw", "status"),
    [
        ("zero", pytest.approx(0, abs=0.3), STATUS_FALLBACK),
        ("hold_last", pytest.approx(50, abs=0.3), STATUS_FALLBACK),
        ("trip", 0, STATUS_STOPPED),
    ],
)
def test_watchdog_falls_back(fallback: str, power_kw: Any, status: int) -> None:
    device = battery(watchdog_timeout_s=4, fallback=fallback)
    for beat in range(1, 11):
        device.write("controller_heartbeat", beat)
        device.write("power_command_kw", 50)
        advance(device, 2)
    assert device.power_kw == pytest.approx(50, abs=0.3)
    assert device.values()["alarms"] == 0
    for _ in range(10):
        # The same number again is a controller that hangs, not one that lives.
        device.write("controller_heartbeat", 10)
        advance(device, 1)
    assert device.power_kw == power_kw
    assert device.values()["alarms"] == ALARM_WATCHDOG
    assert device.values()["status"] == status


def test_zero_fallback_forgets_the_set_point() -> None:
    device = battery(watchdog_timeout_s=4)
    device.write("power_command_kw", 50)
    advance(device, 10)
    device.write("controller_heartbeat", 1)
    advance(device, 2)
    assert device.values()["setpoint_kw"] == 0
    assert device.values()["alarms"] == 0


def test_autonomous_fallback_makes_power_that_nobody_asked_for() -> None:
    device = battery(watchdog_timeout_s=4, fallback="autonomous")
    assert max(abs(power) for power in advance(device, 60)[40:]) > 5


def test_meter_measures_apart_from_the_battery() -> None:
    device = battery(noise_kw=0)
    meter = Meter(device, 100, 0.15, 1)
    device.write("power_command_kw", 60)
    advance(device, 600, meter)
    assert 0 < abs(meter.power_kw - device.power_kw) <= 0.15
    assert meter.values()["energy_export_kwh"] == pytest.approx(10, rel=0.01)
    device.write("power_command_kw", -60)
    advance(device, 600, meter)
    assert meter.values()["energy_import_kwh"] == pytest.approx(10, rel=0.01)
    with pytest.raises(WriteRefusedError):
        meter.check("power_kw", 0)
