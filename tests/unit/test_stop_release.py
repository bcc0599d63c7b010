"""What forbids the release of an emergency stop, judged from what the devices have said."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from modbus_rig import BATTERY

from stationkeeper.profiles import Profile, parse_profile
from stationkeeper.profiles.load import DATA
from stationkeeper.station.devices import Seen, Target, refusals

ROOT = DATA.parents[3]


def with_local_mode() -> Profile:
    content = yaml.safe_load((DATA / "generic_battery.yaml").read_text())
    content["local_mode"] = {"point": "operating_command", "equals": 7}
    return parse_profile(content, "test")


def seen(**changes: Any) -> Seen:
    local = changes.pop("local_mode", None)
    well = {"power_kw": 0.1, "setpoint_kw": 0.0, "alarms": 0, "soe_percent": 50.0} | changes
    samples = tuple({"heartbeat": beat, **well} for beat in (1, 2, 3))
    if "heartbeat" in changes:
        samples = tuple({**sample, "heartbeat": changes["heartbeat"]} for sample in samples)
    return Seen(samples, {"vendor_id": 0x534B, "model_id": 1}, local)


def judge(answer: Seen, profile: Profile = BATTERY) -> str:
    return "; ".join(refusals(Target("bess", profile, "host", 502, 1, 100), answer))


@pytest.mark.criterion("ES-7")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"alarms": 2}, "active alarms: over_temperature"),
        ({"alarms": None}, "does not say whether it has alarms"),
        ({"heartbeat": 5}, "repeats itself"),
        ({"soe_percent": 3.0}, "holds 3 % of its energy"),
        ({"soe_percent": 97.0}, "holds 97 % of its energy"),
        ({"soe_percent": None}, "does not say its state of energy"),
        ({"power_kw": 4.0}, "does not stand at zero"),
        ({"power_kw": None}, "does not stand at zero"),
    ],
)
def test_each_reason_forbids_the_release(changes: dict[str, Any], words: str) -> None:
    found = judge(seen(**changes))
    assert (words in found) if words else found == ""


@pytest.mark.criterion("ES-7")
def test_local_mode_and_silence_forbid_the_release() -> None:
    profile = with_local_mode()
    assert judge(seen(local_mode=0), profile) == ""
    assert "is in local mode" in judge(seen(local_mode=7), profile)
    assert "does not say whether it is in local mode" in judge(seen(), profile)
    assert "does not answer: no route" in judge(Seen(error="no route"))


@pytest.mark.criterion("ES-7")
def test_the_runbook_releases_one_station_and_asks_for_maintenance_before_it_acts() -> None:
    plays = yaml.safe_load((ROOT / "playbooks/edge_emergency_release.yml").read_text())
    opening = plays[0]["tasks"][-1]["ansible.builtin.assert"]["that"]
    assert "runbook_run.targets | length == 1" in opening
    assert any("confirm" in condition for condition in opening)
    names = [task["name"] for task in plays[1]["tasks"][0]["block"]]
    refusal = names.index("Refuse while anything speaks against it")
    asked = (
        "Ask for the latch",
        "Ask the controller",
        "Ask for an order of maintenance",
        "Ask the controller for maintenance",
        "Ask the devices over Modbus",
    )
    assert all(names.index(question) < refusal for question in asked)
    acting = (
        "Bring the batteries to standby at zero",
        "Require standby at zero",
        "Withdraw a stop order that still waits",
        "Remove the latch",
        "Prove that the controller is in charge again",
    )
    assert [name for name in names if name in acting] == list(acting)
    assert min(names.index(step) for step in acting) > refusal
