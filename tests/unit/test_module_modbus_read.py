"""Ansible module modbus_read, run by Ansible itself, compared with mbpoll."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modbus_module_rig import SYSTEM_PYTHON, LiveBench


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveBench]:
    bench = LiveBench(tmp_path)
    yield bench
    bench.close()


def test_points_and_registers(live: LiveBench) -> None:
    live.fault("sentinel", point="temperature_c")
    result = live.run(
        "modbus_read",
        profile_content=live.content,
        points=["setpoint_kw", "temperature_c", "relay"],
        registers=[
            {
                "name": "command",
                "reference": "400001",
                "type": "int32",
                "scale": 0.001,
                "engineering_unit": "kW",
            },
            {"table": "input", "address": 100},
        ],
    )
    assert result["changed"] is False
    assert result["values"] == {
        "setpoint_kw": 40,
        "temperature_c": None,
        "relay": 0,
        "command": 40,
        "input 100": 0x534B,
    }
    assert result["missing"] == ["temperature_c"]
    assert result["readings"]["command"]["text"] == "40 kW (0000 9C40)"
    assert result["readings"]["setpoint_kw"]["registers"] == {"input 4": "0000", "input 5": "9C40"}
    assert live.mbpoll("4:int", 0) == "40000"
    assert live.mbpoll("3", 100) == str(0x534B)
    assert live.writes() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to read"),
        ({"points": ["power_kw"]}, "points need a profile"),
        ({"registers": [{"reference": "90001"}]}, "is not of the form"),
        ({"registers": [{"address": 20, "name": "a"}, {"address": 21, "name": "a"}]}, "the same name"),
        ({"registers": [{"address": 999}]}, "correct the address"),
    ],
)
def test_wrong_requests_are_refused(arguments: dict[str, Any], message: str, live: LiveBench) -> None:
    result = live.run("modbus_read", **arguments)
    assert result["failed"]
    assert message in result["msg"]


def test_without_the_package_it_says_how_to_install_it(live: LiveBench) -> None:
    result = live.run("modbus_read", python=SYSTEM_PYTHON, registers=[{"address": 1}])
    assert result["failed"]
    assert "pip install -e ." in result["msg"]
