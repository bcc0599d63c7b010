"""Ansible module edge_latch, run by Ansible itself as it runs on a station."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from module_runner import run_module

Places = tuple[Path, Path]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    directory = tmp_path / "disk"
    directory.mkdir()
    return directory, tmp_path / "tmpfs"


def run(places: Places, check: bool = False, **arguments: str) -> dict[str, Any]:
    """Run the module once on this machine and return its result."""
    arguments |= {"directory": str(places[0]), "fallback_directory": str(places[1])}
    return run_module(places[0].parent, "edge_latch", arguments, check=check, package=None)


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
