"""Runbook device_commission on this machine: refused where power has no business, no write in check mode."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_module_device_commissioning import ROOT, command_word, port, written

__all__ = ["port"]  # the fixture


def devices(number: int, **battery: Any) -> list[dict[str, Any]]:
    def device(name: str, kind: str, unit: int) -> dict[str, Any]:
        modbus = {"host": "127.0.0.1", "port": number, "unit": unit}
        profile = {"bess": "generic_battery", "meter": "generic_meter"}[kind]
        return {"name": name, "type": kind, "profile": profile, "modbus": modbus}

    own = {**device("B", "bess", 1), "rating_kw": 100, "capacity_kwh": 200, "writes_enabled": False}
    return [own | battery, {**device("M", "meter", 2), "measures": "B"}]


def answer(directory: Path, module: str, **result: bool) -> None:
    """Put a module in the place of the station's own."""
    library = directory / "library"
    library.mkdir(exist_ok=True)
    code = "from ansible.module_utils.basic import AnsibleModule\n"
    code += "spec = {'state': {'type': 'str'}, 'order': {'type': 'str'}}\n"
    code += f"AnsibleModule(spec, supports_check_mode=True).exit_json(**{result})\n"
    (library / f"{module}.py").write_text(code)


def run(
    directory: Path,
    declared: list[dict[str, Any]],
    *arguments: str,
    device: str = "B",
    latched: bool = False,
    safe_mode: bool = False,
) -> tuple[int, str]:
    """Run the runbook for station wlce, which is this machine; return code and folded output."""
    answer(directory, "edge_latch", latched=latched)
    answer(directory, "edge_order", present=safe_mode)
    host = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "runbook_lock_directory": str(directory / "locks"),
        "station_devices": declared,
    }
    inventory = {"all": {"children": {"stations": {"hosts": {"wlce": host}}}}}
    (directory / "hosts.yml").write_text(yaml.safe_dump(inventory))
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(directory / "hosts.yml")]
    command += ["playbooks/device_commission.yml", "-e", f"target=wlce device={device}", *arguments]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=kept
        | {
            "STATIONKEEPER_STATE": str(directory / "state"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LIBRARY": f"{directory / 'library'}:{ROOT / 'library'}",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_check_mode_writes_nothing_and_the_run_proposes_what_it_measured(port: int, tmp_path: Path) -> None:
    code, output = run(tmp_path, devices(port), "--check", "--diff")
    assert code == 0, output
    assert "B: nothing speaks against it" in output
    assert "planned: - release - zero_power - set_power +5 kW" in output
    assert written(tmp_path) == []

    code, output = run(tmp_path, devices(port), "-e", "reason=test")
    assert code == 0, output
    assert "B: passed, left at 0 kW; measured_fallback_s 1" in output
    assert "left at 0 kW, measured and read back" in output
    assert command_word(port) == "0"
    assert len(list((tmp_path / "state" / "commissioning").glob("B-*.json"))) == 1


@pytest.mark.parametrize(
    ("battery", "options", "message"),
    [
        ({"writes_enabled": True}, {}, "B is under control: declare it with writes_enabled false"),
        ({}, {"device": "M"}, "M is no battery"),
        ({}, {"device": "X"}, "X is not in station_devices of wlce"),
        ({}, {"latched": True}, "wlce is under emergency stop, and commissioning puts power on its battery"),
        ({}, {"safe_mode": True}, "wlce is in safe mode, and commissioning puts power on its battery"),
        ({"profile": "hold_last_inverter"}, {}, "connection: unit 1"),
    ],
)
def test_it_is_refused_before_anything_is_written(
    port: int, tmp_path: Path, battery: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    code, output = run(tmp_path, devices(port, **battery), "-e", "reason=test", **options)
    assert code != 0
    assert message in output
    assert written(tmp_path) == []
