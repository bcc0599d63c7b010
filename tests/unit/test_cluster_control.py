"""What has to be true of a stopped primary before its standby may be promoted."""

from __future__ import annotations

from typing import Any

import pytest

from stationkeeper.database.cluster import control
from stationkeeper.database.cluster.control import LaggingError, caught_up, end_writes, ending

STANDBY = {"port": 5432}
STOPPED = {"running": False, "state": "shut down", "checkpoint_lsn": "0/5000028"}


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the standby says that it has replayed, one answer after the other; the last one stays."""
    answers = ["0/50000A0"]
    monkeypatch.setattr(
        control, "psql", lambda query, dsn: answers.pop(0) if len(answers) > 1 else answers[0]
    )
    return answers


def test_a_standby_with_all_of_the_log_may_be_promoted(replayed: list[str]) -> None:
    replayed[:] = ["0/4FFFFFF", "0/5000028", "0/50000A0"]
    caught_up(STANDBY, STOPPED)
    assert replayed == ["0/50000A0"], "it was promoted before it had the last record"


def test_an_old_primary_may_still_be_archiving(replayed: list[str]) -> None:
    caught_up(STANDBY, STOPPED | {"running": True})


def test_a_standby_that_lacks_log_is_not_promoted(replayed: list[str]) -> None:
    replayed[:] = ["0/5000028"]
    with pytest.raises(LaggingError, match="the standby has 0/5000028, needs more than 0/5000028"):
        caught_up(STANDBY, STOPPED, timeout_s=0.2)


@pytest.mark.parametrize(
    ("old", "said"),
    [
        ({}, "it was lost"),
        (STOPPED | {"state": "in production"}, "in production"),
        (STOPPED | {"state": "shut down in recovery"}, "shut down in recovery"),
    ],
)
def test_nothing_is_promoted_after_an_unclean_stop(
    replayed: list[str], old: dict[str, Any], said: str
) -> None:
    with pytest.raises(LaggingError, match=f"did not stop cleanly \\({said}\\)"):
        caught_up(STANDBY, old)


@pytest.mark.parametrize(
    ("running", "state", "expected"),
    [(True, "shut down", True), (True, "in production", False), (False, "shut down", False)],
)
def test_a_server_that_has_written_its_last_record_is_ending(
    running: bool, state: str, expected: bool
) -> None:
    assert ending({"running": running, "state": state}) is expected


NODE = {"data_directory": "/var/lib/postgresql/17/main", "version": 17}


def test_writes_have_ended_with_the_last_record_not_with_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    states = ["in production", "shutting down", "shut down"]
    commands: list[Any] = []
    monkeypatch.setattr(control, "as_postgres", commands.append)
    monkeypatch.setattr(control, "look", lambda name: {"running": True, "state": states.pop(0)})
    monkeypatch.setattr(control, "stop", lambda *given, **more: pytest.fail("it was waited for"))
    end_writes(NODE)
    assert not states
    assert [str(word) for word in commands[0]][-3:] == ["-m", "fast", "--no-wait"]


def test_a_server_that_hangs_is_stopped_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[Any] = []
    monkeypatch.setattr(control, "as_postgres", lambda words: "")
    monkeypatch.setattr(control, "look", lambda name: {"running": True, "state": "shutting down"})
    monkeypatch.setattr(control, "stop", lambda node, timeout_s: stopped.append(node))
    end_writes(NODE, timeout_s=0.2)
    assert stopped == [NODE]
