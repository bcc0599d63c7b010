"""The examples of docs/modbus.md run as they stand, in check mode and in earnest."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from modbus_module_rig import LiveBench
from module_runner import ROOT, environment


def play(live: LiveBench, directory: Path, *options: str) -> dict[str, Any]:
    """Run all examples as one play; return the results by task name."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "modbus.md").read_text(), re.DOTALL)
    tasks = [task for block in blocks for task in yaml.safe_load(block)]
    assert len(tasks) == 4
    book = [{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]
    (directory / "examples.yml").write_text(yaml.safe_dump(book))
    given = {
        "device_host": "127.0.0.1",
        "device_port": live.port,
        "ansible_python_interpreter": sys.executable,
    }
    command = [str(Path(sys.executable).parent / "ansible-playbook"), str(directory / "examples.yml"), "-e"]
    done = subprocess.run(
        [*command, json.dumps(given), *options],
        env=environment(directory) | {"STATIONKEEPER_STATE": str(live.state)},
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        timeout=280,
    )
    results = json.loads(done.stdout)["plays"][0]["tasks"]
    assert done.returncode == 0, json.dumps(results[-1])[:2000]
    return {task["task"]["name"]: task["hosts"]["localhost"] for task in results}


def test_the_examples_run_as_they_stand(tmp_path: Path) -> None:
    live = LiveBench(tmp_path)
    try:
        live.bench.server.devices[1].source.write("power_command_kw", -20)
        planned = play(live, tmp_path, "--check", "--diff")
        assert live.writes() == 0
        assert planned["Write a register that no profile describes"]["words"] == [300]
        live.bench.server.devices[1].source.write("power_command_kw", 0)
        done = play(live, tmp_path)
        read = done["Read power and state of energy"]
        assert set(read["values"]) == {"power_kw", "soe_percent", "vendor"}
        outcomes = {name: result.get("outcome") for name, result in done.items()}
        assert outcomes.pop("Read power and state of energy") is None
        assert set(outcomes.values()) == {"verified"}
        assert live.mbpoll("4:int", 0) == "-10000"
        assert live.mbpoll("4", 4) == "300"
    finally:
        live.close()
