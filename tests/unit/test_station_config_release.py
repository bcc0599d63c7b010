"""Configuration releases: one switch, nothing lost, a usable release at any moment."""

from __future__ import annotations

import grp
import os
from pathlib import Path
from typing import Any

import pytest

from stationkeeper.station import config_release as releases
from stationkeeper.station import trial
from stationkeeper.station.config_release import Content

GROUP = grp.getgrgid(os.getgid()).gr_name
OLD = Content("site: OLD\n", "{}\n", {"own.yaml": "name: own\n"})
NEW = Content("site: NEW\n", "a: 1\n", {"own.yaml": "name: own\n"})


class PowerCutError(BaseException):
    """Nothing after it runs."""


def put(directory: Path, content: Content) -> None:
    """Put a release in force, without a gate."""
    releases.adopt(directory, GROUP)
    releases.prepare(directory, content, GROUP)
    trial.point(directory / "current", f"releases/{content.identity}")
    releases.link_names(directory)


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """A station with OLD in plain files, as before there were releases."""
    directory = tmp_path / "etc"
    (directory / "profiles").mkdir(parents=True)
    for name, text in OLD.files().items():
        (directory / name).write_text(text)
    (directory / "database.yaml").write_text("password: secret\n")
    return directory


def test_the_identity_follows_every_file() -> None:
    others = {
        NEW.identity,
        Content("site: NEW\n", "a: 1\n").identity,
        Content("site: NEW\n", "", {"own.yaml": "name: own\n"}).identity,
        Content("site: NEW\na: 1\n", "", {"own.yaml": "name: own\n"}).identity,
        Content("site: NEW\n", "a: 1\n", {"other.yaml": "name: own\n"}).identity,
    }
    assert len(others) == 5
    assert Content("site: NEW\n", "a: 1\n", {"own.yaml": "name: own\n"}).identity in others


def test_plain_files_become_a_release_with_the_same_content(etc: Path) -> None:
    assert releases.settled(etc) is None
    releases.adopt(etc, GROUP)
    assert releases.settled(etc) == OLD.identity
    assert releases.read(etc) == OLD
    assert (etc / "override.yaml").is_symlink()
    assert (etc / "profiles" / "own.yaml").read_text() == "name: own\n"
    assert (etc / "database.yaml").read_text() == "password: secret\n"


def test_a_release_is_one_switch_and_readable_by_its_group_only(etc: Path) -> None:
    put(etc, NEW)
    assert releases.read(etc) == NEW
    release = etc / "releases" / NEW.identity
    assert (release / "config.yaml").stat().st_mode & 0o777 == 0o640
    assert release.stat().st_mode & 0o777 == 0o750
    trial.point(etc / "current", f"releases/{OLD.identity}")
    assert releases.read(etc) == OLD


@pytest.mark.parametrize("edit", ["in_place", "replaced"])
def test_an_edit_of_the_override_is_taken_up_not_lost(etc: Path, edit: str) -> None:
    put(etc, OLD)
    path = etc / "override.yaml"
    if edit == "replaced":  # as `sed -i` does
        path.unlink()
    path.write_text("edited: true\n")
    assert releases.settled(etc) is None
    releases.adopt(etc, GROUP)
    present = releases.read(etc)
    assert present is not None
    assert present.override == "edited: true\n"
    assert releases.settled(etc) == present.identity
    put(etc, OLD)
    assert releases.read(etc) == OLD, "the edited release was taken for the one of its name"


def test_what_is_not_given_stays() -> None:
    directory = Path("/etc/x")
    assert releases.complete(directory, OLD, "site: NEW\n", None, None) == Content(
        "site: NEW\n", OLD.override, OLD.profiles
    )
    assert releases.complete(directory, None, "site: NEW\n", None, None) == Content("site: NEW\n")
    only_override = Content("", "a: 1\n")
    assert releases.complete(directory, only_override, "site: NEW\n", None, None).override == "a: 1\n"
    for present in (None, only_override):
        with pytest.raises(releases.ConfigReleaseError, match=r"site\.yml"):
            releases.complete(directory, present, None, "a: 1\n", None)


def test_a_fresh_station_keeps_the_override_that_stands_there(tmp_path: Path) -> None:
    assert releases.read(tmp_path) is None
    (tmp_path / "override.yaml").write_text("a: 1\n")
    assert releases.read(tmp_path) == Content("", "a: 1\n")
    put(tmp_path, Content("site: NEW\n", "a: 1\n"))
    assert releases.settled(tmp_path) == Content("site: NEW\n", "a: 1\n").identity


def test_an_unknown_group_is_named_before_anything_is_written(etc: Path) -> None:
    with pytest.raises(releases.ConfigReleaseError, match="no group nobody-has-this"):
        releases.prepare(etc, NEW, "nobody-has-this")
    assert not (etc / "releases").exists()


def test_old_releases_are_bounded_and_the_way_back_stays(etc: Path) -> None:
    contents = [Content(f"site: S{number}\n") for number in range(8)]
    for content in contents:
        put(etc, content)
    (etc / "releases" / ".new-rest").mkdir()
    releases.prune(etc, 3, f"releases/{contents[0].identity}")
    left = {path.name for path in (etc / "releases").iterdir()}
    assert len(left) == 3
    assert {contents[0].identity, contents[-1].identity} <= left


def test_a_power_cut_at_any_step_leaves_a_usable_release(
    etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: dict[str, Any] = {name: getattr(Path, name) for name in ("replace", "rename", "symlink_to")}
    remaining = 0

    def cut_before(name: str) -> Any:
        def step(self: Path, *arguments: Any) -> Any:
            nonlocal remaining
            remaining -= 1
            if remaining < 0:
                raise PowerCutError
            return steps[name](self, *arguments)

        return step

    for name in steps:
        monkeypatch.setattr(Path, name, cut_before(name))
    cuts = 0
    put_calls = [OLD, NEW, OLD]  # adopt the plain files, then switch to and fro
    while True:
        directory = tmp_path / f"cut{cuts}"
        (directory / "profiles").mkdir(parents=True)
        for name, text in OLD.files().items():
            (directory / name).write_text(text)
        remaining = cuts
        try:
            for content in put_calls:
                put(directory, content)
        except PowerCutError:
            cuts += 1
            found = releases.read(directory)
            assert found is not None
            assert found in (OLD, NEW)
            remaining = 1000
            put(directory, NEW)
            assert releases.read(directory) == NEW
            assert releases.settled(directory) == NEW.identity
            continue
        break
    assert cuts > 15
