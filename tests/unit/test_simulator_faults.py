"""Faults of the simulated devices: which requests they hit, and what they do to writes and states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from simulator_rig import (
    READ_COMMAND,
    READ_POWER,
    READ_SETPOINT,
    Bare,
    advance,
    ask,
    power,
    serve,
    station,
    value,
)

from stationkeeper.modbus.client import Table
from stationkeeper.simulator.fault_kinds import KINDS
from stationkeeper.simulator.faults import Fault, FaultError, parse_fault
from stationkeeper.simulator.server import SimulatorServer

SET_25_KW = power(25)


def server() -> SimulatorServer:
    return SimulatorServer(station().devices)


def test_a_request_fault_hits_what_it_names_and_ends_by_its_count() -> None:
    served = server()
    served.faults.set(Fault(kind="busy", unit=1, functions={16}, address=1, count=2, after=1))
    answers = [ask(served, SET_25_KW) for _ in range(4)]
    assert answers == ["1000000002", "9006", "9006", "1000000002"]
    assert [entry.get("fault") for entry in served.recent()] == [None, "busy", "busy", None]
    assert served.faults.active() == []
    assert served.writes() == served.writes(1) == 4
    assert ask(served, READ_SETPOINT).startswith("0404")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "gremlin"}, "unknown fault kind 'gremlin'; kinds are exception, busy"),
        ({"kind": "busy", "code": 3}, "fault busy takes no code; it takes address, after, count"),
        ({"kind": "exception"}, "fault exception needs code"),
        ({"kind": "soe_limit"}, "fault soe_limit needs low or high"),
        ({"kind": "reboot", "count": 1}, "fault reboot takes no count"),
        ({"kind": "drop", "colour": 1}, "colour: Extra inputs"),
        ({"kind": "exception", "code": 12}, "code: Input should be less than"),
        ({"kind": "drop", "functions": [7]}, "functions are 1 to 6"),
    ],
)
def test_a_wrong_fault_is_refused_by_name(content: dict[str, object], message: str) -> None:
    with pytest.raises(FaultError, match=message):
        parse_fault(content)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(kind="drop", unit=9), "no unit 9 here; units are 1, 2"),
        (Fault(kind="sentinel", unit=1, point="colour"), "b has no point 'colour'; points are heartbeat"),
        (Fault(kind="temperature", unit=2, value=70), "is for batteries"),
    ],
)
def test_a_fault_that_this_server_cannot_have_is_refused(fault: Fault, message: str) -> None:
    served = server()
    with pytest.raises(FaultError, match=message):
        served.faults.set(fault)
    assert served.faults.active() == []


def test_every_kind_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs/simulator.md").read_text()
    table = [f"| `{name}` | {kind.stage.value} |" for name, kind in KINDS.items()]
    assert [row for row in table if row not in page] == []
    assert [name for name, kind in KINDS.items() if f"| {kind.text} |" not in page] == []


def test_faults_are_cleared_by_kind_unit_or_number() -> None:
    faults = server().faults
    first = faults.set(Fault(kind="busy"))
    for unit in (1, 2):
        faults.set(Fault(kind="drop", unit=unit))
    assert faults.clear(number=first) == 1
    assert faults.clear("drop", unit=2) == 1
    assert [active.fault for active in faults.active()] == [Fault(kind="drop", unit=1)]
    assert faults.clear() == 1
    with pytest.raises(FaultError, match="unknown fault kind"):
        faults.clear("none")


@pytest.mark.parametrize(
    ("fault", "held_kw"),
    [
        (Fault(kind="ignore"), 0),
        (Fault(kind="clamp", value=50), 50),
        (Fault(kind="torn_write"), 65.536),
        (Fault(kind="torn_write", half="second"), 14.464),
    ],
)
def test_an_acknowledged_write_holds_another_value(fault: Fault, held_kw: float) -> None:
    devices = station()
    served = SimulatorServer(devices.devices)
    served.faults.set(fault)
    assert ask(served, power(80)) == "1000000002"
    assert served.recent()[0]["written"] == [1, 14464]
    assert value(served, READ_SETPOINT) == held_kw
    advance(devices, 5)
    assert value(served, READ_POWER) == pytest.approx(held_kw, abs=0.5)


def test_a_write_that_would_be_refused_is_refused_under_a_write_fault_too() -> None:
    served = server()
    served.faults.set(Fault(kind="ignore"))
    assert ask(served, power(101)) == "9003"


def test_a_slow_device_applies_after_its_own_time() -> None:
    devices = station()
    served = SimulatorServer(devices.devices)
    served.faults.set(Fault(kind="slow_apply", seconds=8, count=1))
    ask(served, power(25))
    advance(devices, 7.75)
    assert value(served, READ_SETPOINT) == 0
    advance(devices, 0.25)
    assert value(served, READ_SETPOINT) == 25


def test_local_mode_refuses_writes_and_is_shown() -> None:
    devices = station(profile="sunspec_battery")
    served = SimulatorServer(devices.devices)
    point = devices.devices[1].profile.points["local_mode"]
    read = f"03{point.address:04x}0001"
    assert ask(served, read) == "03020000"
    served.faults.set(Fault(kind="local_mode", unit=1))
    assert ask(served, read) == "03020001"
    setpoint = devices.devices[1].profile.points["setpoint_kw"].address
    assert ask(served, f"10{setpoint:04x}00020400000000") == "9004"
    served.faults.clear("local_mode")
    assert ask(served, f"10{setpoint:04x}00020400000000") == f"10{setpoint:04x}0002"


def test_a_second_master_writes_again_and_again() -> None:
    devices = station()
    served = SimulatorServer(devices.devices)
    served.faults.set(Fault(kind="second_master", unit=1, value=50, seconds=2))
    advance(devices, 1)
    assert value(served, READ_SETPOINT) == 50
    ask(served, power(0))
    assert value(served, READ_SETPOINT) == 0
    advance(devices, 2)
    assert value(served, READ_SETPOINT) == 50
    foreign = [entry for entry in served.recent() if entry["client"] == "second_master"]
    assert [entry["written"] for entry in foreign] == [[0, 50000]] * 2
    assert served.writes() == 1
    ask(served, "0600020000")
    advance(devices, 10)
    assert value(served, READ_POWER) == 0


def test_a_second_master_spares_meters_and_survives_a_missing_scale_factor() -> None:
    devices = station(profile="sunspec_battery")
    served = SimulatorServer(devices.devices)
    served.faults.set(Fault(kind="second_master", value=50))
    number = served.faults.set(Fault(kind="sentinel", unit=1, point="setpoint_sf"))
    advance(devices, 2)
    assert served.recent() == []
    served.faults.clear(number=number)
    served.faults.set(Fault(kind="hold_value", unit=1, point="setpoint_sf", value=1e9))
    advance(devices, 2)
    assert served.recent() == []
    served.faults.clear("hold_value")
    advance(devices, 1)
    assert {entry["unit"] for entry in served.recent()} == {1}


def test_a_frozen_heartbeat() -> None:
    served = server()
    assert value(served, "0400000002") == 0.001
    served.faults.set(Fault(kind="heartbeat_freeze", unit=1))
    assert [value(served, "0400000002") for _ in range(2)] == [0.001] * 2
    assert value(served, "0400000002", unit=2) == 0.001
    served.faults.clear()
    assert value(served, "0400000002") == 0.002


@pytest.mark.parametrize(("low", "high", "asked_kw", "stops"), [(50, None, 40, True), (None, 50, 40, False),
    (None, 50, -40, True)])  # fmt: skip
def test_state_of_energy_limits_end_the_power_in_one_direction(
    low: float | None, high: float | None, asked_kw: float, stops: bool
) -> None:
    devices = station()
    served = SimulatorServer(devices.devices)
    served.faults.set(Fault(kind="soe_limit", unit=1, low=low, high=high))
    ask(served, power(asked_kw))
    advance(devices, 30)
    assert value(served, READ_SETPOINT) == asked_kw
    assert (abs(value(served, READ_POWER)) < 1) is stops


def test_heat_derates_and_alarms() -> None:
    devices = station()
    served = SimulatorServer(devices.devices)
    ask(served, power(80))
    number = served.faults.set(Fault(kind="temperature", unit=1, value=56))
    advance(devices, 2)
    assert value(served, READ_POWER) == pytest.approx(40, abs=0.5)
    assert ask(served, "04000b0002") == "040400000002"
    served.faults.clear(number=number)
    served.faults.set(Fault(kind="temperature", unit=1, value=60))
    advance(devices, 2)
    assert value(served, READ_POWER) == pytest.approx(0, abs=0.5)


def test_a_sign_flip_in_the_measurement_and_in_the_command() -> None:
    devices = station()
    served = SimulatorServer(devices.devices)
    ask(served, power(40))
    advance(devices, 2)
    served.faults.set(Fault(kind="sign_flip", unit=1))
    assert value(served, READ_POWER) == pytest.approx(-40, abs=0.5)
    assert value(served, READ_POWER, unit=2) == pytest.approx(40, abs=1)
    served.faults.clear()
    served.faults.set(Fault(kind="sign_flip", unit=1, point="power_command_kw"))
    ask(served, power(30))
    advance(devices, 2)
    assert value(served, READ_COMMAND) == 30
    assert value(served, READ_POWER) == pytest.approx(-30, abs=0.5)


def test_sentinels_and_held_values() -> None:
    served = server()
    served.faults.set(Fault(kind="sentinel", unit=1, point="soe_percent"))
    served.faults.set(Fault(kind="sentinel", unit=1, point="power_kw"))
    served.faults.set(Fault(kind="hold_value", unit=1, point="temperature_c", value=61.5))
    assert ask(served, "0400060001") == "0402ffff"
    assert ask(served, READ_POWER) == "040480000000"
    assert ask(served, "0400090001") == f"0402{615:04x}"


def test_a_reboot_forgets_and_is_silent_for_its_time() -> None:
    async def scenario(served: SimulatorServer, port: int) -> None:
        bare = await Bare.to(port)
        await bare.ask(1, power(25))
        await bare.ask(2, "0600020000")
        heartbeat = await bare.ask(3, "0400000002")
        served.faults.set(Fault(kind="reboot", unit=1, seconds=5))
        assert await bare.ended()
        bare = await Bare.to(port)
        bare.send(4, READ_SETPOINT)
        assert (await bare.ask(5, READ_POWER, unit=2))[0] == 5
        advance(devices, 5)
        assert served.faults.active() == []
        assert await bare.ask(6, "0300000003") == (6, 1, "0306000000000001")
        assert (await bare.ask(7, "0400000002"))[2] > heartbeat[2]

    devices = station()
    assert [entry.get("fault") for entry in serve(scenario, devices).recent()][3] == "reboot"


def test_flash_survives_a_reboot() -> None:
    devices = station(profile="hold_last_inverter")
    served = SimulatorServer(devices.devices)
    ask(served, "0604b30007")
    served.faults.set(Fault(kind="reboot", unit=1))
    assert devices.devices[1].read(Table.HOLDING, 1203, 1) == [7]
    assert served.faults.active() == []


@pytest.mark.parametrize(
    ("fed_by", "pdu", "fed"),
    [
        ("any_message", READ_SETPOINT, True),
        ("any_write", READ_SETPOINT, False),
        ("any_write", "0600020001", True),
        ("register_write", "0600020001", False),
        ("register_write", "0600030007", True),
    ],
)
def test_what_feeds_the_watchdog(fed_by: str, pdu: str, fed: bool) -> None:
    devices = station(watchdog={"timeout_s": 4, "fed_by": fed_by, "fallback": "zero"})
    served = SimulatorServer(devices.devices)
    ask(served, power(25))
    advance(devices, 3)
    ask(served, pdu)
    advance(devices, 3)
    command: Any = devices.devices[1].read(Table.HOLDING, 0, 2)
    assert command == ([0, 25000] if fed else [0, 0])
