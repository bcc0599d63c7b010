"""Releases on trial: the way back is never lost, whoever dies meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stationkeeper.station import trial

SOURCE = Path(trial.__file__)


@pytest.fixture
def slot(tmp_path: Path) -> trial.Slot:
    """A link with the release `old` in force and `new` beside it."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    made = trial.Slot("package", tmp_path / "venv", tmp_path / "journal")
    trial.point(made.link, str(tmp_path / "old"))
    return made


def switch(slot: trial.Slot, release: str) -> None:
    trial.begin(slot, str(slot.link.parent / release), "run-1")
    trial.point(slot.link, str(slot.link.parent / release))


def test_a_passed_trial_stays_in_force(slot: trial.Slot) -> None:
    switch(slot, "new")
    trial.passed(slot, "in charge for 45 s")
    assert slot.link.resolve().name == "new"
    assert trial.pending(slot) is None
    (entry,) = trial.history(slot)
    assert (entry["event"], entry["reason"], entry["run_id"]) == ("proven", "in charge for 45 s", "run-1")


def test_a_failed_trial_is_put_back_with_its_reason(slot: trial.Slot) -> None:
    switch(slot, "new")
    assert Path(str(trial.failed(slot, "it crashed"))).name == "old"
    assert slot.link.resolve().name == "old"
    assert trial.pending(slot) is None
    (entry,) = trial.history(slot)
    assert (entry["event"], entry["reason"]) == ("rolled_back", "it crashed")
    assert trial.failed(slot, "again") is None


def test_a_second_trial_keeps_the_proven_release_as_its_way_back(slot: trial.Slot) -> None:
    switch(slot, "new")
    (slot.link.parent / "newer").mkdir()
    switch(slot, "newer")
    trial.failed(slot, "it crashed")
    assert slot.link.resolve().name == "old"


def test_a_first_release_has_no_way_back(tmp_path: Path) -> None:
    slot = trial.Slot("package", tmp_path / "venv", tmp_path / "journal")
    with pytest.raises(trial.TrialError, match="no release that could be put back"):
        trial.begin(slot, "new", "run")


def test_starts_without_a_watcher_end_the_trial(slot: trial.Slot) -> None:
    switch(slot, "new")
    assert trial.count_start(slot.directory) == []
    assert trial.count_start(slot.directory) == []
    assert slot.link.resolve().name == "new"
    (line,) = trial.count_start(slot.directory)
    assert "started 3 times" in line
    assert slot.link.resolve().name == "old"
    assert trial.count_start(slot.directory) == []
    assert trial.history(slot)[-1]["event"] == "rolled_back"


def test_starts_without_a_trial_change_nothing(slot: trial.Slot, tmp_path: Path) -> None:
    assert trial.count_start(slot.directory) == []
    assert trial.count_start(tmp_path / "missing") == []
    assert slot.link.resolve().name == "old"


@pytest.mark.parametrize("content", ["", "{}", '{"link": "x"}', "[]", "\0"])
def test_a_broken_marker_is_no_trial(slot: trial.Slot, content: str) -> None:
    slot.directory.mkdir(exist_ok=True)
    slot.marker.write_text(content)
    assert trial.pending(slot) is None
    assert trial.count_start(slot.directory) == []


def test_the_journal_is_bounded(slot: trial.Slot) -> None:
    for number in range(250):
        trial.record(slot, "proven", str(number))
    entries = trial.history(slot)
    assert len(entries) == 200
    assert entries[-1]["reason"] == "249"


def test_a_directory_in_the_links_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    with pytest.raises(trial.TrialError, match="move it away"):
        trial.point(tmp_path / "venv", "new")


def test_the_unit_runs_the_file_with_nothing_but_python() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import runpy; runpy.run_path({str(SOURCE)!r})"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
