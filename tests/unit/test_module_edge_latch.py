"""Ansible module edge_latch, run by Ansible itself as it runs on a station."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
Places = tuple[Path, Path]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    directory = tmp_path / "disk"
    directory.mkdir()
    return directory, tmp_path / "tmpfs"


def run(places: Places, check: bool = False, **arguments: str) -> dict[str, Any]:
    """Run the module once on this machine and return its result."""
    configuration = places[0].parent / "ansible.cfg"
    configuration.touch()
    environment = os.environ | {
        "ANSIBLE_LIBRARY": str(ROOT / "library"),
        "ANSIBLE_MODULE_UTILS": str(ROOT / "src"),
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_CONFIG": str(configuration),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "PYTHONPATH": "",
    }
    arguments |= {"directory": str(places[0]), "fallback_directory": str(places[1])}
    command = [
        Path(sys.executable).parent / "ansible",
        "localhost",
        "-m",
        "edge_latch",
        "-a",
        json.dumps(arguments),
    ]
    command += ["--diff", "-e", f"ansible_python_interpreter={sys.executable}"] + (
        ["--check"] if check else []
    )
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=places[0].parent
    )
    report = json.loads(done.stdout)
    result: dict[str, Any] = report["plays"][0]["tasks"][0]["hosts"]["localhost"]
    return result


def test_check_mode_tells_the_plan_and_writes_nothing(places: Places) -> None:
    result = run(places, check=True, state="engaged", reason="smoke", run_id="run-1")
    assert result["changed"]
    assert result["latched"]
    assert result["diff"]["before"]["latched"] is False
    assert result["diff"]["after"]["record"]["reason"] == "smoke"
    assert list(places[0].iterdir()) == []


def test_engage_query_release(places: Places) -> None:
    first = run(places, state="engaged", reason="smoke", run_id="run-1", owner="ops@control")
    assert first["changed"]
    assert first["record"]["who"] == "ops@control"
    assert (places[0] / "emergency_stop.json").exists()
    second = run(places, state="engaged", reason="other", run_id="run-2")
    assert not second["changed"]
    assert second["record"]["id"] == "run-1"
    queried = run(places, state="query")
    assert not queried["changed"]
    assert queried["persistent"]
    assert "smoke" in queried["message"]
    would = run(places, check=True, state="released", reason="checked")
    assert would["changed"]
    assert (places[0] / "emergency_stop.json").exists()
    released = run(places, state="released", reason="checked")
    assert released["changed"]
    assert not released["latched"]
    assert not (places[0] / "emergency_stop.json").exists()


def test_bad_arguments_and_a_latch_that_cannot_be_cleared_fail(places: Places) -> None:
    assert "run_id" in run(places, state="engaged", reason="smoke")["msg"]
    (places[0] / "emergency_stop.json").mkdir()
    result = run(places, state="released", reason="checked")
    assert result["failed"]
    assert "could not be cleared" in result["msg"]
