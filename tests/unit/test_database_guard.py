"""When a database host may start its server by itself, and when a primary must stop."""

from __future__ import annotations

from typing import Any

import pytest

from stationkeeper.database.cluster import guard
from stationkeeper.database.cluster.guard import Guard, Peer, may_run, may_start, metrics
from stationkeeper.database.cluster.node import absent

STOPPED = absent() | {"exists": True, "role": "stopped", "was": "primary", "timeline": 3, "start": "manual"}
SETTINGS = {
    "port": 5432,
    "user": "replicator",
    "peers": [{"name": "db2", "address": "192.0.2.2"}],
    "witnesses": ["192.0.2.3"],
    "isolation_s": 15,
}


@pytest.mark.parametrize(
    ("node", "peers", "action", "words"),
    [
        ({}, [Peer("db2", primary=False, timeline=3)], "start", "every peer answers"),
        ({}, [Peer("db2")], "wait", "does not answer"),
        ({}, [Peer("db2", primary=True, timeline=3)], "wait", "is primary: database_rejoin"),
        ({}, [Peer("db2", primary=False, timeline=4)], "wait", "newer timeline"),
        ({}, [Peer("db2", primary=False, timeline=3), Peer("db3")], "wait", "db3 does not answer"),
        # A standby takes no writes, whoever answers or not.
        ({"was": "standby"}, [], "start", "standby"),
        ({"start": "disabled"}, [], "wait", "fenced"),
        ({"was": None, "message": "pg_controldata cannot read it"}, [], "wait", "cannot read"),
        ({"exists": False}, [], "none", ""),
    ],
)
def test_a_stopped_server_is_started_only_where_that_is_safe(
    node: dict[str, Any], peers: list[Peer], action: str, words: str
) -> None:
    decision = may_start(STOPPED | node, peers)
    assert decision.action == action
    assert words in decision.reason


def test_only_a_primary_that_is_alone_for_long_enough_stops_itself() -> None:
    assert may_run(primary=True, lonely_s=15, isolation_s=15).action == "stop"
    assert may_run(primary=True, lonely_s=14, isolation_s=15).action == "none"
    assert may_run(primary=False, lonely_s=99, isolation_s=15).action == "none"


class World:
    """A host with a clock of its own, whose server and network are what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        self.now = 0.0
        self.node = dict(STOPPED)
        self.network = True
        self.peer = Peer("db2", primary=False, timeline=3)
        self.acts: list[str] = []
        monkeypatch.setattr(guard, "STARTED", tmp_path / "started")
        monkeypatch.setattr(guard, "METRICS", tmp_path / "database.prom")
        monkeypatch.setattr(guard.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(guard, "look", lambda **_: dict(self.node))
        monkeypatch.setattr(guard, "_answers", lambda _: self.network)
        monkeypatch.setattr(guard, "start", lambda _: self.do("start", running=True, role="primary"))
        monkeypatch.setattr(
            guard, "stop", lambda _, timeout_s: self.do("stop", running=False, role="stopped")
        )
        self.guard = self.boot()

    def boot(self) -> Guard:
        guarding = Guard(SETTINGS)
        guarding._ask = lambda _: self.peer  # type: ignore[method-assign]
        return guarding

    def do(self, act: str, **state: Any) -> str:
        self.acts.append(act)
        self.node |= state
        return "fast"

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds // 2)):
            self.now += 2
            self.guard.step()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> World:
    return World(monkeypatch, tmp_path)


def test_an_isolated_primary_stops_and_comes_back_when_nobody_has_taken_over(world: World) -> None:
    world.run(4)
    assert world.acts == ["start"]
    world.network, world.peer = False, Peer("db2")
    world.run(12)
    assert world.acts == ["start"]
    world.run(10)
    assert world.acts == ["start", "stop"]
    world.run(60)
    assert world.acts == ["start", "stop"]
    assert "stationkeeper_database_guard_waits 1" in guard.METRICS.read_text()
    world.network, world.peer = True, Peer("db2", primary=False, timeline=3)
    world.run(20)
    assert world.acts == ["start", "stop", "start"]


def test_an_isolated_primary_stays_down_when_another_one_took_over(world: World) -> None:
    world.run(4)
    world.network, world.peer = False, Peer("db2")
    world.run(30)
    world.network, world.peer = True, Peer("db2", primary=True, timeline=4)
    world.run(60)
    assert world.acts == ["start", "stop"]


def test_a_primary_that_wakes_up_beside_a_newer_one_stops(world: World) -> None:
    """Its host was frozen, or cut off for less than it takes to notice, and another one was promoted."""
    world.run(4)
    world.peer = Peer("db2", primary=True, timeline=4)
    world.run(60)
    assert world.acts == ["start", "stop"]


def test_of_two_primaries_the_newer_one_goes_on(world: World) -> None:
    world.run(4)
    world.peer = Peer("db2", primary=True, timeline=2)
    world.run(60)
    assert world.acts == ["start"]


def test_a_server_that_somebody_stopped_stays_stopped_also_when_the_guard_restarts(world: World) -> None:
    world.run(4)
    world.node |= {"running": False, "role": "stopped"}
    world.run(30)
    world.guard = world.boot()
    world.run(30)
    assert world.acts == ["start"]


def test_without_a_witness_a_primary_never_stops_itself(world: World) -> None:
    """Its only peer may be the one that is gone."""
    world.guard.settings = SETTINGS | {"witnesses": []}
    world.run(4)
    world.network = False
    world.run(120)
    assert world.acts == ["start"]


def test_the_figures_of_a_primary_name_the_standby_that_does_not_follow() -> None:
    text = metrics(absent() | {"role": "primary"}, ["db2"], waits=False)
    assert 'stationkeeper_database_follower{standby="db2"} 0' in text
    assert "stationkeeper_database_standby_streaming" not in text
