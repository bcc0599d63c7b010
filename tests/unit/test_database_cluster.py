"""The judgement of all looks, what site.yml may do, and whom a failover or a switchover makes primary."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from stationkeeper.database.cluster.change import failover, run_alone, switchover
from stationkeeper.database.cluster.node import absent
from stationkeeper.database.cluster.plan import plan
from stationkeeper.database.cluster.view import Limits, View, judge

ADDRESSES = {"db1": "10.0.0.1", "db2": "10.0.0.2", "db3": "10.0.0.3"}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Node = dict[str, Any]


def node(role: str, *, timeline: int = 1, lsn: str = "0/5000", **more: Any) -> Node:
    known = {"exists": True, "role": role, "was": role, "running": True, "start": "manual", "version": 17}
    return absent() | known | {"system_identifier": "7", "timeline": timeline, "lsn": lsn} | more


def primary(*followers: str, **more: Any) -> Node:
    replicas = [
        {"name": name, "state": "streaming", "sync_state": "async", "lag_bytes": 0} for name in followers
    ]
    return node("primary", **{"replicas": replicas, "slots": [], **more})


def standby(of: str = "db1", **more: Any) -> Node:
    upstream = {"host": ADDRESSES[of], "status": "streaming"}
    return node("standby", **{"upstream": upstream, "replay_lsn": "0/5000", **more})


def stopped(was: str = "primary", **more: Any) -> Node:
    state = {"primary": "shut down", "standby": "shut down in recovery"}[was]
    known = {"running": False, "was": was, "state": state, "checkpoint_lsn": "0/4FD8"}
    return node("stopped", **{**known, **more})


BARE = absent()


def look(**looks: Node | None) -> View:
    return judge(looks, ADDRESSES, now=NOW)


def kinds(view: View) -> set[tuple[str, str | None]]:
    return {(problem.kind, problem.host) for problem in view.problems}


def test_a_primary_and_a_standby_that_agree_are_in_order() -> None:
    view = look(db1=primary("db2"), db2=standby())
    assert (view.primary, view.standbys, view.problems) == ("db1", ["db2"], [])


@pytest.mark.parametrize(
    ("looks", "problem"),
    [
        ({"db1": primary(), "db2": node("primary")}, ("split_brain", None)),
        ({"db1": stopped(), "db2": standby()}, ("no_primary", None)),
        ({"db1": primary("db2"), "db2": None}, ("unreachable", "db2")),
        ({"db1": primary("db2"), "db2": standby(system_identifier="8")}, ("foreign_system", None)),
        # Each of the two views alone says that it streams.
        ({"db1": primary(), "db2": standby()}, ("disagree", "db2")),
        ({"db1": primary("db2"), "db2": standby(of="db3")}, ("disagree", "db2")),
        ({"db1": primary("db2"), "db2": standby(upstream=None)}, ("not_streaming", "db2")),
        ({"db1": primary(), "db2": stopped()}, ("old_primary", "db2")),
        ({"db1": primary(), "db2": stopped("standby")}, ("standby_stopped", "db2")),
        ({"db1": primary(), "db2": BARE}, ("absent", "db2")),
        ({"db1": node("silent"), "db2": standby()}, ("silent", "db1")),
        ({"db1": primary("db2", pending=["shared_buffers"]), "db2": standby()}, ("pending_restart", "db1")),
        ({"db1": primary("db2", oldest_transaction_s=4000), "db2": standby()}, ("long_transaction", "db1")),
        (
            {"db1": primary("db2", certificate_expires_at="2026-01-10T00:00:00+00:00"), "db2": standby()},
            ("certificate", "db1"),
        ),
    ],
)
def test_what_is_wrong_has_a_name(looks: dict[str, Node | None], problem: tuple[str, str | None]) -> None:
    assert problem in kinds(look(**looks))


@pytest.mark.parametrize(
    ("slot", "kind"),
    [
        ({"wal_status": "lost", "retained_bytes": None}, "slot_lost"),
        ({"wal_status": "unreserved", "retained_bytes": 1}, "slot_lost"),
        ({"wal_status": "extended", "retained_bytes": 2 << 30}, "slot_growing"),
    ],
)
def test_a_slot_that_grows_or_is_lost(slot: Node, kind: str) -> None:
    assert kinds(look(db1=primary("db2", slots=[{"name": "db2", **slot}]), db2=standby())) == {(kind, "db1")}


def test_a_standby_far_behind() -> None:
    late = primary("db2")
    late["replicas"][0]["lag_bytes"] = 1 << 30
    assert kinds(look(db1=late, db2=standby())) == {("lag", "db2")}


@pytest.mark.parametrize(("names", "state", "found"), [("", "async", True), ("FIRST 1 (db2)", "async", True)])
def test_synchronous_mode_without_a_synchronous_standby(names: str, state: str, found: bool) -> None:
    looks = {"db1": primary("db2", synchronous_standby_names=names), "db2": standby()}
    view = judge(looks, ADDRESSES, synchronous=True, now=NOW)
    assert (("not_synchronous", "db1") in kinds(view)) is found
    looks["db1"]["replicas"][0]["sync_state"] = "sync"
    looks["db1"]["synchronous_standby_names"] = "FIRST 1 (db2)"
    assert not judge(looks, ADDRESSES, synchronous=True, now=NOW).problems


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        # Only where no host has any data does the order decide.
        ({"db1": BARE, "db2": BARE}, {"db1": ("create", "db1"), "db2": ("join", "db1")}),
        ({"db1": BARE, "db2": primary()}, {"db1": ("join", "db2"), "db2": ("keep", "db2")}),
        ({"db1": standby(of="db2"), "db2": primary("db1")}, {"db1": ("keep", "db2"), "db2": ("keep", "db2")}),
        # After a power cut of both: the newest primary, and its standby.
        ({"db1": stopped(), "db2": stopped("standby")}, {"db1": ("start", "db1"), "db2": ("start", "db1")}),
        ({"db1": stopped(), "db2": BARE}, {"db1": ("start", "db1"), "db2": ("join", "db1")}),
        # Refused: a host that may hold the database does not answer; nobody is primary; two are.
        ({"db1": BARE, "db2": None}, {"db1": ("refuse", None)}),
        ({"db1": BARE, "db2": standby(upstream=None)}, {"db1": ("refuse", None), "db2": ("refuse", None)}),
        ({"db1": None, "db2": standby()}, {"db2": ("refuse", None)}),
        ({"db1": primary(), "db2": primary()}, {"db1": ("refuse", None), "db2": ("refuse", None)}),
        ({"db1": primary(), "db2": node("primary", system_identifier="8")}, {"db1": ("refuse", None)}),
        # A former primary is never started, and a fenced one neither.
        ({"db1": stopped(), "db2": primary(timeline=2)}, {"db1": ("refuse", "db2"), "db2": ("keep", "db2")}),
        ({"db1": stopped(), "db2": stopped("standby", timeline=2)}, {"db1": ("refuse", None)}),
        ({"db1": stopped(start="disabled"), "db2": standby()}, {"db1": ("refuse", None)}),
        ({"db1": primary(), "db2": None}, {"db1": ("keep", "db1")}),
    ],
)
def test_what_a_run_of_the_site_may_do(
    looks: dict[str, Node | None], expected: dict[str, tuple[str, str | None]]
) -> None:
    for host, outcome in expected.items():
        found = plan(looks, host)
        assert (found.action, found.primary) == outcome, found.message
        assert bool(found.message) is (found.action == "refuse")


def test_a_failover_takes_the_most_advanced_standby_and_fences_the_old_primary() -> None:
    looks = {"db1": node("silent", was="primary"), "db2": standby(lsn="0/5000"), "db3": standby(lsn="0/6000")}
    found = failover(looks)
    assert (found.primary, found.old, found.act, found.fence) == ("db3", "db1", True, ["db1"])


def test_a_failover_says_how_much_log_is_missing_where_it_can_know() -> None:
    assert failover({"db1": stopped(lsn="0/5100"), "db2": standby(lsn="0/5000")}).lacks_bytes == 0x100
    assert failover({"db1": None, "db2": standby()}, confirmed=["db1"]).lacks_bytes is None


@pytest.mark.parametrize(
    ("looks", "options", "words"),
    [
        ({"db1": None, "db2": standby()}, {}, "fencing_confirmed=db1"),
        ({"db1": None, "db2": standby()}, {"confirmed": ["db9"]}, "db9 is no database host"),
        ({"db1": primary("db2"), "db2": standby()}, {"new_primary": "db2"}, "database_switchover"),
        ({"db1": stopped(), "db2": standby()}, {"new_primary": "db1"}, "cannot become primary"),
        ({"db1": primary(), "db2": primary()}, {}, "say new_primary"),
        ({"db1": BARE, "db2": BARE}, {}, "backup_restore"),
        ({"db1": stopped(system_identifier="8"), "db2": standby()}, {}, "different databases"),
    ],
)
def test_a_failover_is_refused(looks: dict[str, Node | None], options: Any, words: str) -> None:
    found = failover(looks, **options)
    assert words in str(found.refusal)
    assert not found.act


def test_a_failover_that_was_killed_after_the_promotion_only_finishes() -> None:
    found = failover({"db1": stopped(start="disabled"), "db2": primary(timeline=2)})
    assert (found.primary, found.act, found.fence, found.refusal) == ("db2", False, ["db1"], None)


def test_of_two_primaries_the_one_on_the_newer_timeline_stays() -> None:
    found = failover({"db1": primary(timeline=1), "db2": primary(timeline=2)})
    assert (found.primary, found.fence) == ("db2", ["db1"])


def test_without_a_standby_the_stopped_primary_on_the_newest_timeline_is_started() -> None:
    found = failover({"db1": stopped(timeline=1), "db2": stopped(timeline=2)})
    assert (found.primary, found.fence) == ("db2", ["db1"])


def change(looks: dict[str, Node | None], name: str | None = None, **limits: float) -> Any:
    return switchover(looks, ADDRESSES, name, limits=Limits(**limits))  # type: ignore[arg-type]


WAITS: Node = {"synchronous_standby_names": "FIRST 1 (db2)", "waiting_commits": 2}


def test_a_primary_whose_synchronous_standby_is_gone_may_run_alone() -> None:
    done = run_alone({"db1": primary(**WAITS), "db2": stopped("standby")}, [])
    assert (done.primary, done.act, done.refusal) == ("db1", True, None)
    done = run_alone({"db1": primary(**WAITS), "db2": None}, ["db2"])
    assert (done.primary, done.act, done.trusted) == ("db1", True, ["db2"])
    again = run_alone({"db1": primary(synchronous_standby_names=""), "db2": None}, ["db2"])
    assert (again.primary, again.act, again.refusal) == ("db1", False, None)


@pytest.mark.parametrize(
    ("looks", "confirmed", "words"),
    [
        ({"db1": primary(**WAITS), "db2": None}, [], "fencing_confirmed=db2 .* may have become primary"),
        ({"db1": primary(**WAITS), "db2": None}, ["db3"], "db3 is no database host"),
        ({"db1": None, "db2": standby()}, ["db1"], "no host is primary"),
        ({"db1": primary(**WAITS), "db2": primary()}, [], "db1 and db2 are primary"),
        ({"db1": primary("db2", **WAITS), "db2": standby()}, [], "db2 confirms every commit"),
    ],
)
def test_running_alone_is_refused(looks: dict[str, Node | None], confirmed: list[str], words: str) -> None:
    for replica in (looks["db1"] or {}).get("replicas", []):
        replica["sync_state"] = "sync"
    found = run_alone(looks, confirmed)
    assert found.refusal is not None
    assert re.search(words, found.refusal)


def test_a_switchover_goes_to_the_only_standby() -> None:
    found = change({"db1": primary("db2"), "db2": standby()})
    assert (found.primary, found.old, found.act, found.refusal) == ("db2", "db1", True, None)


@pytest.mark.parametrize(
    ("looks", "name", "words"),
    [
        ({"db1": primary("db2"), "db2": None}, None, "cannot be asked"),
        ({"db1": primary(), "db2": standby()}, None, "its state is unknown"),
        ({"db1": primary("db2", oldest_transaction_s=90), "db2": standby()}, None, "open for 90 s"),
        ({"db1": primary("db2", "db3"), "db2": standby(), "db3": standby()}, None, "say new_primary"),
        ({"db1": primary(), "db2": primary()}, None, "both primary"),
        # Between the stop and the promotion, but not cleanly.
        ({"db1": stopped(state="in production"), "db2": standby()}, None, "does not have all of it"),
        ({"db1": stopped(checkpoint_lsn="0/5000"), "db2": standby()}, None, "does not have all of it"),
    ],
)
def test_a_switchover_is_refused(looks: dict[str, Node | None], name: str | None, words: str) -> None:
    found = change(looks, name, transaction_s=60)
    assert words in str(found.refusal)
    assert not found.act


def test_a_switchover_that_was_killed_goes_on() -> None:
    between = change({"db1": stopped(start="disabled"), "db2": standby(upstream=None)})
    assert (between.primary, between.old, between.act) == ("db2", "db1", True)
    after = change({"db1": stopped(start="disabled"), "db2": primary(timeline=2)})
    assert (after.primary, after.old, after.act, after.refusal) == ("db2", "db1", False, None)
