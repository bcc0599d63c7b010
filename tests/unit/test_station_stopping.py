"""What the two paths of the emergency stop add up to: unknown is never stopped."""

from __future__ import annotations

from typing import Any

import pytest

from stationkeeper.runbooks.closing import STATUS_SETS
from stationkeeper.station.stopping import all_stop_targets, judge

BATTERY: dict[str, Any] = {
    "name": "A-BESS-01",
    "type": "bess",
    "profile": "generic_battery",
    "modbus": {"host": "192.0.2.1", "unit": "1"},
    "rating_kw": "100",
}
METER: dict[str, Any] = {
    "name": "A-METER-01",
    "type": "meter",
    "profile": "generic_meter",
    "modbus": {"host": "192.0.2.1", "port": 1502, "unit": 2},
    "measures": "A-BESS-01",
}
ZERO = {"station": "a", "name": "A-BESS-01", "state": "VERIFIED_ZERO", "power_kw": 0.04, "changed": False}
SET = {"latched": True, "changed": True, "persistent": True}
STOOD = {"latched": True, "changed": False, "persistent": True}
DEAD = {"unreachable": True, "error": "no route to host"}
FAILED = {"error": "No space left on device"}


def outcome(states: list[str], latch: dict[str, Any], **options: Any) -> tuple[str, str, str]:
    results = [{**ZERO, "state": state, "message": f"because of {state}"} for state in states]
    arguments = {"problem": "", "contact": "", "check_mode": False, **options}
    result = judge(results, latch, **arguments)
    return result["status"], STATUS_SETS[result["status"]], result["message"]


@pytest.mark.parametrize(
    ("states", "latch", "status", "set_of"),
    [
        (["VERIFIED_ZERO"], SET, "verified", "changed"),
        (["VERIFIED_ZERO"], STOOD, "unchanged", "ok"),
        (["VERIFIED_ZERO", "VERIFIED_ZERO"], SET, "verified", "changed"),
        (["VERIFIED_ZERO"], DEAD, "unreachable", "unreachable"),
        (["UNKNOWN"], DEAD, "unreachable", "unreachable"),
        (["VERIFIED_ZERO"], FAILED, "failed", "failed"),
        (["VERIFIED_ZERO", "UNKNOWN"], SET, "unknown", "failed"),
        (["READBACK_ONLY"], SET, "unknown", "failed"),
        (["UNREACHABLE_DEADMAN_PENDING"], STOOD, "unknown", "failed"),
        (["CONTENDED"], SET, "contended", "failed"),
        (["FAILED"], SET, "failed", "failed"),
        (["SOMETHING_NEW"], SET, "unknown", "failed"),
        ([], SET, "failed", "failed"),
        ([], {}, "failed", "failed"),
    ],
)
def test_only_zero_and_latch_together_are_stopped(
    states: list[str], latch: dict[str, Any], status: str, set_of: str
) -> None:
    found = outcome(states, latch)
    assert found[:2] == (status, set_of)
    assert ("NOT proven stopped" in found[2]) == (status not in ("verified", "unchanged"))


def test_the_message_says_whom_to_call_and_what_is_missing() -> None:
    _, _, message = outcome(["UNKNOWN"], DEAD, contact="+39 070 000")
    assert message == (
        "NOT proven stopped (call +39 070 000): UNKNOWN: because of UNKNOWN; NOT latched, no ssh"
    )
    assert "no battery" in outcome([], SET, problem="no battery declared")[2]


def test_a_latch_in_memory_only_is_told() -> None:
    assert "a reboot forgets it" in outcome(["VERIFIED_ZERO"], {**SET, "persistent": False})[2]


def test_check_mode_is_a_plan() -> None:
    status, _, message = outcome(["PLANNED"], SET, check_mode=True)
    assert status == "ok"
    assert message == "PLANNED: because of PLANNED; would be latched"
    assert outcome(["PLANNED"], DEAD, check_mode=True)[0] == "unreachable"


def test_targets_have_their_meters() -> None:
    targets, problems = all_stop_targets({"a": [METER, BATTERY]})
    assert problems == {}
    assert targets == [
        {
            "station": "a",
            "name": "A-BESS-01",
            "host": "192.0.2.1",
            "port": 502,
            "unit": 1,
            "profile": "generic_battery",
            "rating_kw": 100.0,
            "meter": {"host": "192.0.2.1", "port": 1502, "unit": 2, "profile": "generic_meter"},
        }
    ]


@pytest.mark.parametrize(
    "broken", [{"name": "x"}, {**BATTERY, "modbus": None}, {**BATTERY, "modbus": {"host": "x"}}]
)
def test_one_broken_station_does_not_keep_the_others_running(broken: dict[str, Any]) -> None:
    targets, problems = all_stop_targets({"a": [broken], "b": [BATTERY], "c": [METER]})
    assert [target["station"] for target in targets] == ["b"]
    assert set(problems) == {"a", "c"}
