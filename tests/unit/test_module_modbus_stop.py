"""Ansible module modbus_stop, run by Ansible itself, against simulators in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from module_runner import PACKAGE, run_module

from free_port import free_port

PACE = {"window_s": 6, "hold_s": 0.5, "interval_s": 0.1, "connect_timeout_s": 1, "response_timeout_s": 1}


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A station's simulator: battery 1 and meter 2."""
    number = free_port()
    config = {
        "listen": {"host": "127.0.0.1", "port": number},
        "log": str(tmp_path / "served.jsonl"),
        "time_step_s": 0.05,
        "devices": [
            {"unit": 1, "name": "bess", "profile": "generic_battery", "watchdog": {"timeout_s": 0}},
            {"unit": 2, "name": "meter", "profile": "generic_meter", "meter_of": "bess"},
        ],
    }
    (tmp_path / "simulator.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "stationkeeper.cli", "simulator", "run", "--config"]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE)}
    process = subprocess.Popen(
        [*command, str(tmp_path / "simulator.yaml")], stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    process.stdout.readline()
    mbpoll(number, "-r", "0", "-t", "4:int", "-B", "127.0.0.1", "40000")
    yield number
    process.terminate()
    assert process.wait(20) == 0
    process.stdout.close()


def mbpoll(port: int, *arguments: str) -> str:
    words = ["mbpoll", "-m", "tcp", "-p", str(port), "-a", "1", "-0", "-1", "-q", *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout


def run(
    directory: Path,
    devices: list[dict[str, Any]],
    *,
    check: bool = False,
    python: str = sys.executable,
    **extra: Any,
) -> dict[str, Any]:
    """Run the module once and return its result."""
    package = PACKAGE if python == sys.executable else None
    arguments = {"devices": devices, **PACE, **extra}
    return run_module(directory, "modbus_stop", arguments, check=check, python=python, package=package)


def battery(port: int, **changes: Any) -> dict[str, Any]:
    end = {"host": "127.0.0.1", "port": port}
    return {
        "station": "wlce",
        "name": "WLCE-BESS-01",
        **end,
        "profile": "generic_battery",
        "meter": {**end, "unit": 2, "profile": "generic_meter"},
    } | changes


def test_check_then_stop_then_again(port: int, tmp_path: Path) -> None:
    gone = battery(1, station="hmce", name="HMCE-BESS-01", meter=None)
    devices = [battery(port), gone]
    planned = run(tmp_path, devices, check=True)
    assert (planned["changed"], planned["all_verified"]) == (True, False)
    assert planned["stations"] == {"wlce": "PLANNED", "hmce": "UNREACHABLE_DEADMAN_PENDING"}
    assert planned["diff"]["after"]["WLCE-BESS-01"]["writes"] == ["power_command_kw = 0 (words 0000 0000)"]
    assert planned["diff"]["before"]["WLCE-BESS-01"]["setpoint_kw"] == 40
    assert "40000" in mbpoll(port, "-r", "0", "-t", "4:int", "-B", "127.0.0.1")
    writes = [line for line in (tmp_path / "served.jsonl").read_text().splitlines() if "written" in line]
    assert len(writes) == 1, "only the test's own mbpoll has written"

    done = run(tmp_path, devices)
    assert "failed" not in done
    assert (done["changed"], done["all_verified"]) == (True, False)
    assert done["stations"] == {"wlce": "VERIFIED_ZERO", "hmce": "UNREACHABLE_DEADMAN_PENDING"}
    assert done["first_write_s"] < 1
    result = done["results"][0]
    assert result["verified_s"] >= 0.5
    assert abs(result["meter_power_kw"]) <= 1
    assert done["summary"][0] == "WLCE-BESS-01: VERIFIED_ZERO, zero measured and held"
    assert mbpoll(port, "-r", "0", "-t", "4:int", "-B", "127.0.0.1").split()[-1] == "0"

    again = run(tmp_path, [battery(port)])
    assert (again["changed"], again["all_verified"]) == (False, True)
    assert again["diff"] == {"before": {}, "after": {}}


def test_a_broken_profile_costs_only_its_own_device_the_proof(port: int, tmp_path: Path) -> None:
    meter = {"host": "127.0.0.1", "port": port, "unit": 2, "profile": "none"}
    broken = battery(port, name="broken", station="hmce", profile="odd", profile_content={"name": "odd"})
    done = run(tmp_path, [broken, battery(port, meter=meter)])
    assert done["stations"] == {"hmce": "FAILED", "wlce": "READBACK_ONLY"}
    assert "profile_content of odd: version: Field required" in done["results"][0]["message"]
    assert "no profile 'none'" in done["results"][1]["message"]
    assert done["results"][1]["writes"]


@pytest.mark.parametrize(
    ("devices", "extra", "message"),
    [
        ([], {}, "devices is empty"),
        ([{"name": "b"}], {}, "missing required arguments"),
        ([battery(1, colour="red")], {}, "Unsupported parameters"),
        ([battery(1)], {"window_s": 0}, "window_s must be above 0"),
        ([battery(1)], {"hold_s": -1}, "hold_s must be 0 or more"),
    ],
)
def test_wrong_options_are_refused(
    devices: list[dict[str, Any]], extra: dict[str, Any], message: str, tmp_path: Path
) -> None:
    result = run(tmp_path, devices, **extra)
    assert result["failed"]
    assert message in result["msg"]


def test_without_the_package_it_says_how_to_install_it(tmp_path: Path) -> None:
    result = run(tmp_path, [battery(1)], python="/usr/bin/python3")
    assert result["failed"]
    assert "pip install -e ." in result["msg"]
    assert "ansible_playbook_python" in result["msg"]
