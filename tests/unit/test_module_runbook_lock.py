"""The modules of the runbook contract, run as Ansible runs them: check, nothing happened, apply, again."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What Ansible's wrapper does: put src/ below ansible.module_utils, give the arguments, run main().
_RUN = """
import json, runpy, sys
import ansible.module_utils
import ansible.module_utils.basic as basic
ansible.module_utils.__path__.append(sys.argv[2])
basic._ANSIBLE_ARGS = sys.argv[3].encode()
basic._ANSIBLE_PROFILE = "legacy"
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def call(name: str, *, check: bool = False, **arguments: Any) -> dict[str, Any]:
    payload = json.dumps({"ANSIBLE_MODULE_ARGS": {**arguments, "_ansible_check_mode": check}})
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(ROOT / "library" / f"{name}.py"), str(ROOT / "src"), payload],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, Any]:
    return {
        "scope": "station",
        "directory": str(tmp_path / "locks"),
        "run_id": "one",
        "runbook": "edge_upgrade",
        "purpose": "upgrade",
        "owner": {"user": "ada", "node": "control", "pid": 42},
    }


def test_lock(arguments: dict[str, Any], tmp_path: Path) -> None:
    planned = call("runbook_lock", check=True, **arguments)
    assert planned["changed"]
    assert not (tmp_path / "locks").exists()
    taken = call("runbook_lock", **arguments)
    assert (taken["changed"], taken["held"], taken["takeover"]) == (True, True, None)
    other = {**arguments, "run_id": "two"}
    looked = call("runbook_lock", check=True, **other)
    assert not looked.get("failed")
    assert not looked["held"]
    assert "A real run would be refused now. Lock `station` is held by ada@control" in str(looked["warnings"])
    refused = call("runbook_lock", **other)
    assert refused["failed"]
    assert refused["holder"]["run_id"] == "one"
    preempted = call("runbook_lock", **other, preempt=True)
    assert (preempted["takeover"], preempted["displaced"]["run_id"]) == ("preempted", "one")
    release = {key: arguments[key] for key in ("scope", "directory")}
    assert not call("runbook_lock", state="released", run_id="one", **release)["changed"]
    assert call("runbook_lock", state="released", run_id="two", **release)["changed"]
    assert not call("runbook_lock", state="released", run_id="two", **release)["changed"]


def test_a_lock_directory_that_cannot_be_made(arguments: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("a file", encoding="utf-8")
    refused = call("runbook_lock", **arguments)
    assert refused["failed"]
    assert refused["msg"].startswith("Lock `station` cannot be used: ")


def test_pending_ledger(tmp_path: Path) -> None:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    entry = {
        "host": "wlce",
        "why": "silent",
        "reason": "upgrade",
        "run_id": "one",
        "since": datetime.now(UTC).isoformat(),
        "expires_at": until,
    }
    arguments = {"directory": str(tmp_path / "pending"), "runbook": "edge_upgrade", "present": [entry]}
    planned = call("pending_ledger", check=True, **arguments)
    assert (planned["changed"], planned["diff"]["after"]) == (True, "wlce\n")
    assert not (tmp_path / "pending").exists()
    written = call("pending_ledger", **arguments)
    assert (written["changed"], written["hosts"]) == (True, ["wlce"])
    waiting = {"why": "silent", "reason": "upgrade", "since": entry["since"]}
    assert written["waiting"] == {"wlce": waiting}
    assert not call("pending_ledger", **arguments)["changed"]
    done = call("pending_ledger", directory=arguments["directory"], runbook="edge_upgrade", absent=["wlce"])
    assert (done["changed"], done["hosts"]) == (True, [])
    broken = call("pending_ledger", **{**arguments, "present": [{"host": "x"}]})
    assert broken["msg"].startswith("An entry of `present` is malformed")
