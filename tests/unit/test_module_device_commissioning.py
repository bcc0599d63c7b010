"""Ansible module device_commissioning, run by Ansible itself, against a simulator in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from module_runner import PACKAGE, ROOT, environment, run_module

from free_port import free_port

PACE = {"samples": 2, "interval_s": 0.2, "window_s": 60}


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A station's simulator: battery 1, whose watchdog waits 6 s at least, and meter 2."""
    number = free_port()
    config = {
        "listen": {"host": "127.0.0.1", "port": number},
        "log": str(tmp_path / "served.jsonl"),
        "time_step_s": 0.05,
        "devices": [
            {"unit": 1, "name": "bess", "profile": "generic_battery", "ramp_kw_per_s": 50},
            {"unit": 2, "name": "meter", "profile": "generic_meter", "meter_of": "bess"},
        ],
    }
    (tmp_path / "simulator.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "stationkeeper.cli", "simulator", "run", "--config"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "simulator.yaml")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield number
    process.terminate()
    assert process.wait(20) == 0
    process.stdout.close()


def command_word(port: int) -> str:
    """The power command as an independent client reads it, in W."""
    words = [
        "mbpoll",
        "-m",
        "tcp",
        "-p",
        str(port),
        "-a",
        "1",
        "-0",
        "-1",
        "-q",
        "-r",
        "0",
        "-t",
        "4:int",
        "-B",
    ]
    done = subprocess.run([*words, "127.0.0.1"], capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.split()[-1]


def written(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / "served.jsonl").read_text().splitlines()
    return [entry for line in lines if "written" in (entry := json.loads(line))]


def arguments(port: int, **extra: Any) -> dict[str, Any]:
    def device(name: str, profile: str, unit: int) -> dict[str, Any]:
        modbus = {"host": "127.0.0.1", "port": port, "unit": unit}
        return {"name": name, "profile": profile, "modbus": modbus, "rating_kw": 100}

    own = {"device": device("B", "generic_battery", 1), "meter": device("M", "generic_meter", 2)}
    return own | PACE | {"reason": "test"} | extra


def run(directory: Path, content: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
    """Run the module once and return its result."""
    state = {"STATIONKEEPER_STATE": str(directory / "state")}
    return run_module(directory, "device_commissioning", content, check=check, variables=state)


def test_check_mode_writes_nothing_and_a_run_ends_at_zero(port: int, tmp_path: Path) -> None:
    planned = run(tmp_path, arguments(port), check=True)
    assert planned["changed"]
    assert planned["passed"]
    assert planned["planned"][:3] == ["release", "zero_power", "set_power +5 kW"]
    assert planned["diff"]["after"] == {"setpoint_kw": 0.0, "power_kw": 0.0}
    assert written(tmp_path) == []
    assert not (tmp_path / "state" / "commissioning").exists()

    done = run(tmp_path, arguments(port, measure_watchdog=False))
    assert "failed" not in done, done["msg"]
    assert done["passed"]
    assert done["left_at_zero"]
    assert done["proposal"] == {}
    assert command_word(port) == "0"
    powers = [entry["written"] for entry in written(tmp_path) if entry["address"] == 0]
    assert any(any(words) for words in powers), "some power was commanded"
    report = json.loads(Path(done["report"]).read_text())
    assert (report["device"], report["reason"], report["passed"]) == ("B", "test", True)
    assert Path(done["report"]).stat().st_mode & 0o777 == 0o600


def test_the_watchdog_is_measured_on_a_real_connection(port: int, tmp_path: Path) -> None:
    done = run(tmp_path, arguments(port))
    assert "failed" not in done, done["msg"]
    # Not how exactly: a busy machine looks later. That it is never told too early is what counts.
    assert done["proposal"]["measured_fallback_s"] >= 10
    assert command_word(port) == "0"


def test_a_run_that_is_ended_by_a_signal_leaves_the_battery_at_zero(port: int, tmp_path: Path) -> None:
    content = json.dumps({"ANSIBLE_MODULE_ARGS": arguments(port)})
    (tmp_path / "arguments.json").write_text(content)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "library" / "device_commissioning.py"), str(tmp_path / "arguments.json")],
        stdout=subprocess.PIPE,
        env=environment(tmp_path) | {"STATIONKEEPER_STATE": str(tmp_path / "state")},
        text=True,
    )
    end = time.monotonic() + 60
    while command_word(port) == "0" and time.monotonic() < end:
        time.sleep(0.1)
    assert command_word(port) == "5000"
    process.send_signal(signal.SIGTERM)
    result = json.loads(process.communicate(timeout=120)[0])
    assert "interrupted" in result["msg"]
    assert result["left_at_zero"]
    assert command_word(port) == "0"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"power_kw": 50}, "Refused, nothing was sent: B: power_kw is 50; it must be 3 to 10 kW"),
        ({"device": {"name": "B"}}, "device cannot be used: KeyError: 'profile'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    port: int, tmp_path: Path, extra: dict[str, Any], message: str
) -> None:
    done = run(tmp_path, arguments(port, **extra))
    assert message in done["msg"]
    assert not (tmp_path / "served.jsonl").read_text()


def test_a_meter_is_not_commissioned(port: int, tmp_path: Path) -> None:
    content = arguments(port)
    done = run(tmp_path, content | {"device": content["meter"]})
    assert "M is a meter; only batteries are commissioned" in done["msg"]
