"""Silences: what a wish means, which of those there are is it, what is refused. Ring 4 sees them in force."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from local_project import LocalProject

from stationkeeper.alerting.silences import SilenceError, Wish, body, found, of, until

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def in_force(wish: Wish, author: str = "stationkeeper anna") -> dict[str, Any]:
    made = body(wish.matchers(), NOW, until(NOW, 1), who="anna", why="work", id="1")
    return made | {"status": {"state": "active"}, "createdBy": author}


def test_critical_alerts_go_on_coming_unless_they_are_meant() -> None:
    plain = Wish("host", "db").matchers()
    assert {"name": "severity", "value": "critical", "isRegex": False, "isEqual": False} in plain
    assert [one["name"] for one in Wish("host", "db", critical=True).matchers()] == ["host"]
    (_, named) = Wish("host", "db", ("HostDown", "DiskFull")).matchers()
    assert (named["value"], named["isRegex"]) == ("DiskFull|HostDown", True)


def test_only_our_own_silences_are_found() -> None:
    wish = Wish("host", "db")
    there = [
        in_force(wish),
        in_force(wish, "anna"),
        in_force(wish) | {"status": {"state": "expired"}},
        in_force(Wish("host", "db", ("A",))),
        in_force(Wish("host", "hub")),
    ]
    assert found(there, wish.matchers()) == [there[0]]
    assert of(there, "host", "db") == [there[0], there[3]]


@pytest.mark.parametrize("hours", [0, -1, 169])
def test_nothing_is_silent_for_ever(hours: float) -> None:
    with pytest.raises(SilenceError, match="at most 168"):
        until(NOW, hours)


def test_what_makes_no_sense_or_reaches_nobody_fails(tmp_path: Path) -> None:
    variables = {
        "stationkeeper_system": "test",
        "stationkeeper_state": str(tmp_path / "state"),
        "stationkeeper_alertmanager_url": "http://127.0.0.1:9",
    }
    project = LocalProject(tmp_path, variables, {"hubs": {"hub": {}}})
    assert project.run("alert_silence", target="hub", reason="test", hours=1000) != 0
    assert "at most 168, not 1000" in project.output
    assert project.run("alert_silence", target="hub", reason="test") != 0
    assert "Alertmanager at http://127.0.0.1:9" in project.output
    nobody = {"stationkeeper_alertmanager_url": ""}
    (tmp_path / "two").mkdir()
    without = LocalProject(tmp_path / "two", variables | nobody, {"hubs": {"hub": {}}})
    assert without.run("alert_silence", target="hub", reason="test") != 0
    assert "This inventory has no Alertmanager" in without.output
