"""Faults of the simulated devices, as a strict client and a bare socket see them."""

from __future__ import annotations

import pytest

from stationkeeper.simulator.config import SimulatorConfig, Station
from stationkeeper.simulator.faults import Fault, FaultError, parse_fault
from stationkeeper.simulator.server import SimulatorServer


def server() -> SimulatorServer:
    devices = [
        {"unit": 1, "name": "b", "profile": "generic_battery", "watchdog": {"timeout_s": 0}},
        {"unit": 2, "name": "m", "profile": "generic_meter", "meter_of": "b"},
    ]
    listen = {"host": "127.0.0.1", "port": 0}
    config = SimulatorConfig.model_validate({"listen": listen, "log": "log", "devices": devices})
    return SimulatorServer(Station(config).devices)


def ask(served: SimulatorServer, pdu: str, unit: int = 1) -> str:
    return served.answer("test", unit, bytes.fromhex(pdu)).hex()


READ, SET_25_KW = "0400040002", "100000000204000061a8"


def test_a_request_fault_hits_what_it_names_and_ends_by_its_count() -> None:
    served = server()
    served.faults.set(Fault(kind="busy", unit=1, functions={16}, address=1, count=2, after=1))
    answers = [ask(served, SET_25_KW) for _ in range(4)]
    assert answers == ["1000000002", "9006", "9006", "1000000002"]
    assert [entry.get("fault") for entry in served.recent()] == [None, "busy", "busy", None]
    assert served.faults.active() == []
    assert served.writes() == served.writes(1) == 4
    assert ask(served, READ).startswith("0404")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "gremlin"}, "unknown fault kind 'gremlin'; kinds are exception, busy"),
        ({"kind": "busy", "code": 3}, "fault busy takes no code; it takes address, after, count"),
        ({"kind": "exception"}, "fault exception needs code"),
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
