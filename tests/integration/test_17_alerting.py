"""Alerts on their way to people: what a silence holds back, what goes on coming, and how it ends."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from system import LabSystem


def amtool(flux: LabSystem, *arguments: str) -> Any:
    """Ask the hub's Alertmanager by its own tool."""
    command = ["amtool", "--alertmanager.url=http://127.0.0.1:9093", *arguments]
    return flux.on_host(flux.hosts("hubs")[0], *command).stdout


def held_back(flux: LabSystem, *names: str) -> set[str]:
    """Return which of these alerts are silenced."""
    alerts = json.loads(amtool(flux, "alert", "query", "--silenced", "-o", "json"))
    silenced = {one["labels"]["alertname"] for one in alerts if one["status"]["silencedBy"]}
    return silenced & set(names)


def test_a_silence_holds_back_what_it_should_and_is_lifted(flux: LabSystem) -> None:
    station = flux.stations[0]
    site = station.upper()
    names = ("TestDisk", "TestBuffer", "TestBattery", "TestHub")
    for name, *labels in (
        (names[0], "severity=warning", f"host={station}"),
        (names[1], "severity=warning", f"site={site}"),
        (names[2], "severity=critical", f"site={site}"),
        (names[3], "severity=warning", "host=fluxhub"),
    ):
        amtool(flux, "alert", "add", f"alertname={name}", *labels)
    common = {"target": station, "reason": "test"}
    assert flux.playbook("alert_silence", common, "--check").code == 0
    assert held_back(flux, *names) == set()
    play = flux.playbook("alert_silence", common | {"hours": 2})
    assert play.code == 0, play.output[-3000:]
    assert held_back(flux, *names) == {"TestDisk", "TestBuffer"}
    # Less than there is already changes nothing; a critical one is held back where it is named.
    again = flux.playbook("alert_silence", common | {"hours": 1})
    assert (again.code, again.changed) == (0, {})
    assert flux.playbook("alert_silence", common | {"alerts": ["TestBattery"]}).code == 0
    assert held_back(flux, *names) == {"TestDisk", "TestBuffer", "TestBattery"}
    # Prolonged, not made twice.
    assert flux.playbook("alert_silence", common | {"hours": 4}).code == 0
    ours = [
        one
        for one in json.loads(amtool(flux, "silence", "query", "-o", "json"))
        if one["createdBy"].startswith("stationkeeper ")
    ]
    assert len(ours) == 4
    assert max(datetime.fromisoformat(one["endsAt"]) for one in ours) > datetime.now(UTC) + timedelta(hours=3)
    lifted = flux.playbook("alert_silence", common | {"lift": True})
    assert lifted.code == 0, lifted.output[-3000:]
    assert "4 silences ended" in lifted.output
    assert held_back(flux, *names) == set()
