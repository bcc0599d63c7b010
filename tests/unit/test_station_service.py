"""What a unit needs, read from what the system shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from stationkeeper.station.service import Service, ServiceError, ensure, look, plan

GOOD = Service(True, "active", True, False, 0, "a", "a")


@pytest.mark.parametrize(
    ("changes", "verbs"),
    [
        ({}, []),
        ({"release": "old"}, ["restart"]),
        ({"release": ""}, ["restart"]),
        ({"stale_unit_file": True}, ["daemon-reload", "restart"]),
        ({"active": "inactive", "release": ""}, ["start"]),
        ({"active": "failed", "release": ""}, ["start"]),
        ({"active": "reloading"}, []),
        ({"enabled": False}, ["enable"]),
        (
            {"loaded": False, "active": "inactive", "enabled": False, "release": ""},
            ["daemon-reload", "enable", "start"],
        ),
    ],
)
def test_plan(changes: dict[str, object], verbs: list[str]) -> None:
    assert plan(Service(**{**vars(GOOD), **changes})) == verbs  # type: ignore[arg-type]  # values of mixed types


class Systemd:
    """Answers like systemctl, and keeps what it was asked to do."""

    def __init__(self, refuse: str = "") -> None:
        self.refuse = refuse
        self.asked: list[list[str]] = []
        self.active = "inactive"

    def __call__(self, command: Sequence[str]) -> tuple[int, str]:
        if command[1] == "show":
            return (
                0,
                f"LoadState=loaded\nActiveState={self.active}\nUnitFileState=enabled\nNRestarts=2\nMainPID=0",
            )
        self.asked.append(list(command))
        if command[1] == self.refuse:
            return 1, "Job failed. See journalctl -xe."
        self.active = "active"
        return 0, ""


def test_ensure_starts_once(tmp_path: Path) -> None:
    systemd = Systemd()
    verbs, after = ensure("x.service", tmp_path, run=systemd)
    assert (verbs, systemd.asked) == (["start"], [["systemctl", "start", "x.service"]])
    assert (after.active, after.restarts) == ("active", 2)
    assert ensure("x.service", tmp_path, run=systemd)[0] == []


def test_dry_run_asks_for_nothing(tmp_path: Path) -> None:
    systemd = Systemd()
    assert ensure("x.service", tmp_path, dry_run=True, run=systemd)[0] == ["start"]
    assert systemd.asked == []


def test_refusal_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="Job failed"):
        ensure("x.service", tmp_path, run=Systemd("start"))


def test_installed_release_is_the_links_target(tmp_path: Path) -> None:
    (tmp_path / "releases/abc").mkdir(parents=True)
    (tmp_path / "venv").symlink_to(tmp_path / "releases/abc")
    assert look("x.service", tmp_path, Systemd()).installed == "abc"


def test_no_systemd_is_not_active(tmp_path: Path) -> None:
    assert look("x.service", tmp_path, lambda command: (127, "not found")).active == "unknown"
