"""Ansible modules stop_bundle and stop_report with the filter that feeds them, run by Ansible itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from module_runner import ROOT, run_module

SECRET = "hunter2-in-the-inventory"


def inventory(directory: Path, **changes: Any) -> Path:
    """One station, with passwords among its variables."""
    end = {"host": "192.0.2.1", "unit": 1}
    battery = {"name": "A-BESS", "type": "bess", "profile": "generic_battery", "modbus": end} | changes
    meter = {"name": "A-METER", "type": "meter", "profile": "generic_meter", "measures": "A-BESS"}
    station = {
        "ansible_host": "192.0.2.1",
        "ansible_port": 2222,
        "ansible_user": "ops",
        "ansible_password": SECRET,
        "ansible_become_password": SECRET,
        "ansible_ssh_private_key_file": "/keys/id",
        "ansible_ssh_common_args": "-o StrictHostKeyChecking=yes -o 'UserKnownHostsFile=\"/a b/known\"'",
        "station_contact": "+39 070 0",
        "station_devices": [battery, {**meter, "modbus": {**end, "unit": 2}}],
    }
    path = directory / "hosts.yml"
    path.write_text(yaml.safe_dump({"all": {"children": {"stations": {"hosts": {"a": station}}}}}))
    return path


def module(directory: Path, name: str, arguments: dict[str, Any], *options: str) -> dict[str, Any]:
    """Run one module on localhost and return its result."""
    filters = {"ANSIBLE_FILTER_PLUGINS": str(ROOT / "filter_plugins")}
    where = ("-i", str(directory / "hosts.yml"))
    return run_module(directory, name, arguments, *where, *options, variables=filters)


def bundle(directory: Path, *options: str) -> dict[str, Any]:
    arguments = {
        "path": str(directory / "state" / "flux.json"),
        "system": "flux",
        "stations": "{{ hostvars | edge_stop_bundle(groups['stations']) }}",
        # As within a runbook, which has groups of its own.
        "groups": "{{ groups | combine({'runbook_targets': groups['stations']}) }}",
    }
    return module(directory, "stop_bundle", arguments, *options)


@pytest.mark.criterion("ES-9")
def test_bundle_holds_all_that_a_stop_needs_and_no_secret(tmp_path: Path) -> None:
    inventory(tmp_path)
    path = tmp_path / "state" / "flux.json"
    planned = bundle(tmp_path, "--check")
    assert (planned["changed"], path.exists()) == (True, False)
    done = bundle(tmp_path)
    assert (done["changed"], done["stations"]) == (True, ["a"])
    assert "generic_battery" in done["diff"]["after"]
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert SECRET not in text
    content = json.loads(text)
    assert content["stations"]["a"]["ssh"] == {
        "host": "192.0.2.1",
        "port": 2222,
        "user": "ops",
        "key_file": "/keys/id",
        "options": ["-o", "StrictHostKeyChecking=yes", "-o", 'UserKnownHostsFile="/a b/known"'],
    }
    assert content["stations"]["a"]["devices"][0]["meter"]["unit"] == 2
    assert content["groups"] == {"stations": ["a"]}
    assert set(content["profiles"]) == {"generic_battery", "generic_meter"}
    assert bundle(tmp_path)["changed"] is False
    inventory(tmp_path, rating_kw=80)
    assert bundle(tmp_path)["changed"] is True


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"profile": "nobody_s"}, "no profile 'nobody_s'"),
        ({"modbus": None}, "declared wrongly"),
        ({"type": "pump"}, "declares no battery"),
        ({"modbus": {"host": "x", "unit": 0}}, "unit"),
    ],
)
def test_what_is_declared_wrongly_is_refused_and_the_old_bundle_stays(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    inventory(tmp_path)
    bundle(tmp_path)
    before = (tmp_path / "state" / "flux.json").read_text()
    inventory(tmp_path, **changes)
    failed = bundle(tmp_path)
    assert failed["failed"]
    assert words in failed["msg"]
    assert (tmp_path / "state" / "flux.json").read_text() == before


@pytest.mark.criterion("ES-10")
def test_report_is_written_with_its_steps_and_not_in_check_mode(tmp_path: Path) -> None:
    inventory(tmp_path)
    device = {
        "name": "A-BESS",
        "state": "VERIFIED_ZERO",
        "first_write_at": "2026-01-01T00:00:00.100+00:00",
        "history": [{"at": "2026-01-01T00:00:06.000+00:00", "state": "VERIFIED_ZERO"}],
    }
    latch = {
        "latched": True,
        "persistent": False,
        "changed": True,
        "record": {"when": "2026-01-01T00:00:02+00:00"},
    }
    stopped = {"station": "a", "contact": "", "stopped": True, "status": "verified", "message": "zero"}
    dark = {"station": "b", "contact": "+39", "stopped": False, "status": "unreachable", "message": "gone"}
    stations = [
        {**stopped, "evidence": {"devices": [device], "latch": latch}},
        {**dark, "evidence": {"devices": [], "latch": {"unreachable": True}}},
    ]
    owner = {"user": "ops", "node": "control"}
    run = {"id": "0123456789", "reason": "smoke", "owner": owner, "started_at": "2026-01-01T00:00:00+00:00"}
    arguments = {"directory": str(tmp_path / "stops"), "system": "flux", "run": run, "stations": stations}
    assert module(tmp_path, "stop_report", arguments, "--check")["path"] is None
    assert not (tmp_path / "stops").exists()
    done = module(tmp_path, "stop_report", arguments)
    assert done["lines"] == ["1 of 2 stations are proven stopped.", "Call:", "  b: +39"]
    assert done["path"].endswith("/20260101T000000Z-01234567.json")
    content = json.loads(Path(done["path"]).read_text())
    assert (content["all_stopped"], content["pending"]) == (False, ["a", "b"])
    text = Path(done["path"]).with_suffix(".txt").read_text()
    steps = [text.index(step) for step in ("first zero write left", "latch set", "A-BESS: VERIFIED_ZERO")]
    assert steps == sorted(steps)
