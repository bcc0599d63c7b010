"""What a station's silence most likely means."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from modbus_rig import Rig

from stationkeeper.profiles import load_profile
from stationkeeper.station.devices import Target
from stationkeeper.station.offline import Ways, diagnose, result, ways_of
from stationkeeper.station.reach import Doors, knock_at_all

WELL = Ways(True, True, True, True, True, True, True, True, True)
DARK = Ways(False, False, False, False, False, False, None, None, False)
# A station behind a dead login: nothing from within is known.
OUTSIDE = replace(WELL, ssh_port=False, login=False, controller=None, sampling=None, telemetry=False)


@pytest.mark.parametrize(
    ("ways", "words"),
    [
        (WELL, "is online"),
        (DARK, "not even its gateway answers"),
        (replace(DARK, gateway=None), "nothing there answers"),
        (replace(DARK, gateway=True), "the station is off, or the switch is"),
        (replace(DARK, telemetry=True), "only the way in from this control node is blocked"),
        (replace(OUTSIDE, station=False, metrics=False), "its computer is off"),
        (replace(OUTSIDE, modbus=False), "overloaded, frozen"),
        (replace(OUTSIDE, ssh_port=True), "the login fails"),
        (replace(WELL, controller=False, sampling=None), "its controller is not running"),
        (replace(WELL, sampling=False, modbus=False), "the bus is cut"),
        (replace(WELL, sampling=False), "another master holds their session"),
        (replace(WELL, telemetry=False), "its way to the database"),
        (replace(WELL, modbus=False), "all is well but Modbus"),
        (replace(WELL, telemetry=None), "the database does not say"),
    ],
)
def test_the_most_likely_cause(ways: Ways, words: str) -> None:
    finding = diagnose(ways, "+39 070")
    assert words in finding.cause
    assert finding.online == (ways == WELL)
    assert finding.advice


def test_the_phone_number_is_in_the_advice_or_its_lack_is() -> None:
    assert "call +39 070" in diagnose(DARK, "+39 070").advice
    assert "names no station_contact" in diagnose(DARK, "").advice


def test_nothing_seen_is_nothing_known() -> None:
    assert ways_of({}, {}, [], 5) == Ways(login=False)
    unreachable = ways_of({"ssh_port": True}, {"unreachable": True, "msg": "no"}, [], 5)
    assert (unreachable.login, unreachable.controller) == (False, None)


def test_result_of_a_station_with_stale_samples() -> None:
    login = {
        "problems": ["B has given no sample for 60 s"],
        "notes": [],
        "unit": {"active": "active"},
        "samples": {"B": {"age_s": 60.0}},
    }
    doors = {"gateway": None, "station_ping": True, "ssh_port": True, "modbus": False, "metrics": True}
    rows = [{"state": "silent", "message": "B: last row 60 s ago"}]
    found = result(doors, login, rows, sample_age_s=11, contact="", notes=["note"])
    assert found["status"] == "failed"
    assert "the bus is cut" in found["message"]
    for line in ("its samples are fresh: NO", "B: last row 60 s ago", "note"):
        assert line in found["evidence"]["lines"]


def test_knocking_reads_only_and_leaves_a_single_session_alone(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "served.jsonl")
    try:
        port = rig.station()
        profile = load_profile("generic_battery")
        open_to_all = Target("b", profile, "127.0.0.1", port, 1, 100)
        alone = Target("s", profile.model_copy(update={"max_connections": 1}), "127.0.0.1", port, 1, 100)
        doors = Doors("a", "127.0.0.1", 1, "", 1, (open_to_all,))
        both = knock_at_all([doors, replace(doors, station="c", devices=(alone,))], 1)
        assert (both["a"].modbus, both["a"].ssh_port, both["a"].metrics) == (True, False, False)
        assert both["a"].gateway is None
        assert both["c"].modbus is None
        assert "it has one session" in both["c"].notes[0]
        assert [entry["function"] for entry in rig.served] == [4]
        gone = knock_at_all([replace(doors, devices=(replace(open_to_all, port=1),))], 1)["a"]
        assert gone.modbus is False
        assert "b: 127.0.0.1:1 refuses" in gone.notes[0]
    finally:
        rig.close()
