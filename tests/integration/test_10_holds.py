"""Safe mode and maintenance by runbook: zero by mbpoll, and nothing written where nothing may be."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from system import LabSystem

STATION = "hmce"
NOISE_KW = 1.0
SETPOINT_REGISTERS = range(3)


def wait_for_work(flux: LabSystem) -> None:
    flux.wait("the battery is at work", lambda: abs(flux.power_kw(STATION)) > 5, timeout_s=120)


def writes(flux: LabSystem) -> list[dict[str, Any]]:
    log = flux.on_host(STATION, "cat", "/var/log/device_simulator/served.jsonl").stdout
    return [
        entry for entry in map(json.loads, log.splitlines()) if entry["function"] in {5, 6, 15, 16, 22, 23}
    ]


def order(flux: LabSystem, name: str) -> dict[str, Any] | None:
    read = flux.on_host(STATION, "cat", f"/var/lib/bess_controller/orders/{name}.json", check=False)
    return json.loads(read.stdout) if read.returncode == 0 else None


def later(minutes: float) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.criterion("SM-2", "SM-3", "SM-5")
def test_safe_mode_holds_at_a_proven_zero(flux: LabSystem) -> None:
    wait_for_work(flux)
    preview = flux.playbook("edge_safe_mode", {"target": STATION}, "--check", "--diff")
    assert preview.code == 0, preview.output[-4000:]
    assert order(flux, "safe_mode") is None
    started = flux.on_host(STATION, "systemctl", "show", "-P", "MainPID", "bess_controller").stdout

    play = flux.playbook("edge_safe_mode", {"target": STATION, "reason": "strange noise"})
    assert play.code == 0, play.output[-4000:]
    assert "verified" in play.output
    assert abs(flux.power_kw(STATION)) <= NOISE_KW
    given = order(flux, "safe_mode")
    assert given is not None
    assert given["reason"] == "strange noise"
    assert given["owner"]
    assert flux.on_host(STATION, "systemctl", "show", "-P", "MainPID", "bess_controller").stdout == started

    again = flux.playbook("edge_safe_mode", {"target": STATION, "reason": "strange noise"})
    assert again.code == 0, again.output[-4000:]
    assert again.changed == {}
    assert order(flux, "safe_mode") == given


@pytest.mark.criterion("SM-6")
def test_safe_mode_is_not_left_while_a_device_has_an_alarm(flux: LabSystem) -> None:
    fault = {"set": {"kind": "hold_value", "unit": 1, "point": "alarms", "value": 1}}
    control = ["/opt/stationkeeper/venv/bin/stationkeeper", "simulator", "control"]
    flux.on_host(STATION, *control, json.dumps(fault))
    try:
        play = flux.playbook("edge_safe_mode", {"target": STATION, "reason": "over", "action": "leave"})
        assert play.code != 0
        assert "active alarms" in play.output
        assert order(flux, "safe_mode") is not None
    finally:
        flux.on_host(STATION, *control, json.dumps({"clear": {}}))
    play = flux.playbook("edge_safe_mode", {"target": STATION, "reason": "over", "action": "leave"})
    assert play.code == 0, play.output[-4000:]
    assert order(flux, "safe_mode") is None
    wait_for_work(flux)


@pytest.mark.criterion("MT-6")
def test_a_maintenance_window_has_an_end(flux: LabSystem) -> None:
    play = flux.playbook("edge_maintenance_window", {"target": STATION, "reason": "cleaning"})
    assert play.code != 0
    assert "until=" in play.output
    assert order(flux, "maintenance") is None


@pytest.mark.criterion("MT-3")
def test_maintenance_holds_zero_and_then_writes_no_setpoint(flux: LabSystem) -> None:
    wait_for_work(flux)
    window = {"target": STATION, "reason": "cleaning", "until": later(60)}
    play = flux.playbook("edge_maintenance_window", window)
    assert play.code == 0, play.output[-4000:]
    assert abs(flux.power_kw(STATION)) <= NOISE_KW
    proven = len(writes(flux))
    flux.wait("three more minutes of cycles", lambda: len(writes(flux)) > proven + 3, timeout_s=180)
    setpoints = [entry for entry in writes(flux)[proven:] if entry["address"] in SETPOINT_REGISTERS]
    assert setpoints == []

    stop = flux.playbook("edge_emergency_stop", {"target": STATION, "reason": "a stop works all the same"})
    assert stop.code == 0, stop.output[-4000:]
    refused = flux.playbook(
        "edge_emergency_release", {"target": STATION, "confirm": STATION, "reason": "too early"}
    )
    assert refused.code != 0
    assert "maintenance" in refused.output

    close = flux.playbook("edge_maintenance_window", {"target": STATION, "reason": "done", "action": "leave"})
    assert close.code == 0, close.output[-4000:]
    release = flux.playbook(
        "edge_emergency_release", {"target": STATION, "confirm": STATION, "reason": "done"}
    )
    assert release.code == 0, release.output[-4000:]
    wait_for_work(flux)
