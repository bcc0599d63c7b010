"""Staged rollouts: order, gate, state that survives, and tuning. No host, no clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stationkeeper.rollout import tuning
from stationkeeper.rollout.state import HostResult, Rollout, RolloutFile, identity
from stationkeeper.rollout.waves import RolloutError, objections, plan

HOSTS = st.lists(st.sampled_from("abcdefghij"), min_size=1, unique=True)


@given(HOSTS, st.integers(1, 12), st.data())
def test_every_host_is_in_one_wave_and_the_canary_goes_alone_and_first(
    hosts: list[str], size: int, data: st.DataObject
) -> None:
    canary = data.draw(st.sampled_from([None, *hosts]))
    waves = plan(hosts, canary, size)
    assert waves[0] == [canary or hosts[0]]
    assert sorted(host for wave in waves for host in wave) == sorted(hosts)
    assert all(0 < len(wave) <= size for wave in waves[1:])


@pytest.mark.parametrize(
    ("reachable", "canary", "size", "words"),
    [
        (["a", "b"], "c", 1, "choose one of a, b"),
        (["a"], None, 0, "wave_size is 0"),
        ([], None, 1, "nothing to roll out to"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    reachable: list[str], canary: str | None, size: int, words: str
) -> None:
    with pytest.raises(RolloutError, match=words):
        plan(reachable, canary, size)


WAVES = [["a"], ["b", "c"], ["d"]]


@pytest.mark.parametrize(
    ("number", "results", "held"),
    [
        (0, {}, []),
        (1, {"a": "changed"}, []),
        (1, {}, ["a is without a result"]),
        (1, {"a": "failed"}, ["a is failed"]),
        (2, {"a": "ok", "b": "changed"}, ["c is without a result"]),
        (2, {"a": "failed", "b": "not_attempted", "c": "not_attempted"}, ["a is failed"]),
        (2, {"a": "ok", "b": "not_attempted", "c": "ok"}, ["b is not_attempted"]),
        (2, {"a": "ok", "b": "unknown", "c": "unreachable"}, ["b is unknown", "c is unreachable"]),
    ],
)
def test_a_wave_starts_only_after_the_proof_of_all_before(
    number: int, results: dict[str, str], held: list[str]
) -> None:
    assert objections(WAVES, number, results) == held


def fresh(run_id: str, reachable: list[str], targets: list[str] | None = None) -> Rollout:
    return Rollout("r-1", "edge_rollout", {"v": 1}, targets or reachable, [reachable], [run_id], "t0")


def result(status: str, run_id: str = "run-1", message: str = "") -> HostResult:
    return HostResult(status, message, run_id, "t1")


def test_a_stopped_rollout_is_continued_with_its_canary(tmp_path: Path) -> None:
    file = RolloutFile(tmp_path, "r-1")
    opened = file.open(fresh("run-1", ["a", "b", "c"]), 1, "b", dry_run=False)
    assert opened.waves == [["b"], ["a"], ["c"]]
    file.record("b", result("changed"))
    stopped = file.record("a", result("failed", message="it crashed"))
    assert (stopped.state, stopped.failures) == ("stopped", {"a": "it crashed"})
    again = file.open(fresh("run-2", ["a", "b", "c"]), 2, None, dry_run=False)
    assert again.waves == [["b"], ["a", "c"]]
    assert again.runs == ["run-1", "run-2"]
    # The proof of another run opens no gate of this one.
    assert objections(again.waves, 1, again.results("run-2")) == ["b is without a result"]
    for host in "bac":
        last = file.record(host, result("ok", "run-2"))
    assert last.state == "done"
    assert json.loads(file.path.read_text())["state"] == "done"


def test_a_finished_rollout_begins_anew(tmp_path: Path) -> None:
    file = RolloutFile(tmp_path, "r-1")
    file.open(fresh("run-1", ["a"]), 1, None, dry_run=False)
    file.record("a", result("changed"))
    assert file.open(fresh("run-2", ["a"]), 1, None, dry_run=False).hosts == {}


def test_a_target_that_could_not_be_reached_leaves_the_rollout_unfinished(tmp_path: Path) -> None:
    file = RolloutFile(tmp_path, "r-1")
    file.open(fresh("run-1", ["a"], ["a", "b"]), 1, None, dry_run=False)
    assert file.record("a", result("changed")).state == "unfinished"
    assert file.open(fresh("run-2", ["a", "b"]), 1, None, dry_run=False).waves == [["a"], ["b"]]


def test_a_preview_writes_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "rollouts"
    opened = RolloutFile(directory, "r-1").open(fresh("run-1", ["a", "b"]), 1, None, dry_run=True)
    assert opened.waves == [["a"], ["b"]]
    assert not directory.exists()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"hosts": {"a": {}}}'])
def test_a_broken_state_is_named_not_overwritten(tmp_path: Path, content: str) -> None:
    file = RolloutFile(tmp_path, "r-1")
    file.path.write_text(content)
    with pytest.raises(RolloutError, match=r"r-1\.json"):
        file.open(fresh("run-1", ["a"]), 1, None, dry_run=False)
    assert file.path.read_text() == content


def test_a_result_needs_an_open_rollout(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="no such rollout"):
        RolloutFile(tmp_path, "r-1").record("a", result("ok"))


def test_the_identity_follows_runbook_content_and_targets() -> None:
    first = identity("edge_tune", {"a": 1}, ["x", "y"])
    assert first == identity("edge_tune", {"a": 1}, ["y", "x"])
    assert first.startswith("edge_tune-")
    others = {
        identity("edge_rollout", {"a": 1}, ["x", "y"]),
        identity("edge_tune", {"a": 2}, ["x", "y"]),
        identity("edge_tune", {"a": 1}, ["x"]),
    }
    assert len({first, *others}) == 4


# Tuning


@pytest.mark.parametrize(
    ("inputs", "wanted"),
    [
        ({"poll_interval": "30s"}, {"controller": {"poll_interval": "30s"}}),
        (
            {"batch_size": 200, "upload_interval": "5s"},
            {"data_platform": {"upload": {"batch_size": 200, "interval": "5s"}}},
        ),
        ({"clear": ["batch_size"]}, {"data_platform": {"upload": {"batch_size": None}}}),
        (
            {"settings": {"controller": {"stale_after": "9s"}}, "poll_interval": "3s"},
            {"controller": {"stale_after": "9s", "poll_interval": "3s"}},
        ),
    ],
)
def test_inputs_become_a_part_of_an_override(inputs: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert tuning.settings(inputs) == wanted


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "nothing to tune"),
        ({"poll_interval": "30"}, "number with its unit"),
        ({"settings": {"controller": {"poll_interval": "1 minute"}}}, "number with its unit"),
        ({"clear": ["pol_interval"]}, "pol_interval is unknown; known are poll_interval"),
        ({"clear": ["batch_size"], "batch_size": 1}, "both set and cleared"),
    ],
)
def test_nonsense_is_refused_before_any_host_is_touched(inputs: dict[str, Any], words: str) -> None:
    with pytest.raises(tuning.TuningError, match=words):
        tuning.settings(inputs)


OVERRIDE = """\
# Local changes.
# Two lines of them.
controller:
  components:
    - {type: maintenance_mode, enabled: false}
  stale_after: null
data_platform: {upload: {batch_size: 50}}
"""


def test_the_override_keeps_what_is_not_tuned_and_its_head() -> None:
    text = tuning.override(OVERRIDE, {"controller": {"poll_interval": "30s"}}, 60)
    assert text.startswith("# Local changes.\n# Two lines of them.\n")
    assert yaml.safe_load(text) == {
        "controller": {
            "components": [{"type": "maintenance_mode", "enabled": False}],
            "stale_after": None,
            "poll_interval": "30s",
        },
        "data_platform": {"upload": {"batch_size": 50}},
    }


def test_an_equal_override_stays_byte_for_byte() -> None:
    assert tuning.override(OVERRIDE, {"data_platform": {"upload": {"batch_size": 50}}}, 60) == OVERRIDE
    assert tuning.override(OVERRIDE, {"logging": {"level": None}}, 60) == OVERRIDE


def test_a_cleared_key_goes_with_the_maps_that_it_leaves_empty() -> None:
    text = tuning.override(OVERRIDE, {"data_platform": {"upload": {"batch_size": None}}}, 60)
    assert "data_platform" not in yaml.safe_load(text)
    assert "stale_after" in yaml.safe_load(text)["controller"]


def test_slower_than_the_registered_cadence_is_refused_with_the_remedy() -> None:
    assert tuning.override("{}\n", {"controller": {"poll_interval": "60s"}}, 60)
    with pytest.raises(tuning.TuningError, match=r"edge_controller_poll_interval .* site\.yml"):
        tuning.override("{}\n", {"controller": {"poll_interval": "2m"}}, 60)


def test_a_broken_override_is_named() -> None:
    with pytest.raises(tuning.TuningError, match=r"override\.yaml: line 2"):
        tuning.override("a: [\n", {"logging": {"level": "debug"}}, 60)
