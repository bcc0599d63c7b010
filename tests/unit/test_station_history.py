"""What a station tells of its configuration and its releases."""

from __future__ import annotations

import grp
import os
from pathlib import Path

import pytest

from stationkeeper.station import config_release, controlled, deploy, history, trial
from stationkeeper.station.config_release import Content

GROUP = grp.getgrgid(os.getgid()).gr_name


@pytest.fixture
def station(tmp_path: Path) -> deploy.Station:
    """A station with one release of its configuration."""
    made = deploy.Station(tmp_path / "etc", tmp_path / "opt", tmp_path / "journal")
    made.config.mkdir()
    (made.config / "config.yaml").write_text("site: WLCE\n")
    (made.config / "override.yaml").write_text("# Nothing.\n{}\n")
    (made.config / "database.yaml").write_text("password: secret\n")
    config_release.adopt(made.config, GROUP)
    return made


def tell(station: deploy.Station) -> dict[str, object]:
    return history.tell(station.config, station.journal.parent / "var", station)


def test_a_settled_station_has_nothing_to_say(station: deploy.Station) -> None:
    told = tell(station)
    assert told["release"] == Content("site: WLCE\n", "# Nothing.\n{}\n").identity
    assert (told["notes"], told["override_lines"], told["evidence"]) == ([], [], {})
    assert "secret" not in str(told)


def test_latch_and_orders_are_told_as_evidence(station: deploy.Station) -> None:
    for name in ("latch/emergency_stop.json", "orders/safe_mode.json"):
        path = station.journal.parent / "var" / name
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    evidence = tell(station)["evidence"]
    assert evidence == {"latch/emergency_stop.json": "{}", "orders/safe_mode.json": "{}"}


def test_an_edit_in_place_is_told(station: deploy.Station) -> None:
    (station.config / "override.yaml").write_text("logging: {level: debug}\n")
    told = tell(station)
    assert told["release"] is None
    assert told["override_lines"] == ["logging: {level: debug}"]
    assert told["notes"] == [
        "the configuration was edited on the station; the next release takes the edit up"
    ]


def test_an_unproven_release_and_then_its_end_are_told(station: deploy.Station) -> None:
    slot = station.slot(controlled.CONFIG)
    trial.begin(slot, "releases/abcdefabcdef", "run")
    (note,) = tell(station)["notes"]  # type: ignore[misc]
    assert "abcdefabcdef is in force since" in note
    trial.failed(slot, "it crashed")
    (note,) = tell(station)["notes"]  # type: ignore[misc]
    assert "abcdefabcdef was put back at" in note
    assert note.endswith("it crashed")
    trial.record(slot, "proven", "in charge")
    assert tell(station)["notes"] == []


def test_a_bare_station_is_told_as_such(tmp_path: Path) -> None:
    told = history.tell(tmp_path / "none", tmp_path, deploy.Station(tmp_path, tmp_path, tmp_path))
    assert (told["files"], told["release"], told["package"], told["notes"]) == ({}, None, None, [])
