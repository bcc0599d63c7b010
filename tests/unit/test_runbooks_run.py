"""Opening (targets, probe) and closing (result sets) of a run."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stationkeeper.runbooks import closing, opening
from stationkeeper.runbooks.closing import Observed
from stationkeeper.runbooks.description import Description, parse_description
from stationkeeper.runbooks.inputs import Inputs
from stationkeeper.runbooks.probe import Endpoint, Knock, probe_all

GROUPS = {"all": ["a", "b", "c", "db"], "stations": ["a", "b", "c"], "empty": []}


def describe(minimum: int | str = 1, group: str = "stations") -> Description:
    return parse_description(
        "sample_work",
        {
            "title": "Work",
            "purpose": "Works.",
            "area": "sample",
            "risk": "read",
            "owner": "operations",
            "target_group": group,
            "lock": {"scope": "none"},
            "minimum_reachable": minimum,
            "undo": "Nothing.",
            "point_of_no_return": "None.",
            "verifies": ["It works."],
            "alerts": [],
            "drill": None,
            "source": "the tests",
        },
    )


def chosen(target: str | None) -> Inputs:
    return Inputs({}, target, None, None, False)


def match(pattern: str) -> list[str]:
    return [host for host in GROUPS["all"] if host in pattern.split(",")]


@pytest.mark.parametrize(
    ("target", "pending", "hosts"),
    [
        (None, None, ["a", "b", "c"]),
        ("all", None, ["a", "b", "c"]),
        ("c,a", None, ["a", "c"]),
        ("all", ["b", "gone"], ["b"]),
    ],
)
def test_targets(target: str | None, pending: list[str] | None, hosts: list[str]) -> None:
    assert opening.resolve_targets(describe(), chosen(target), GROUPS, match, pending) == hosts


@pytest.mark.parametrize(
    ("target", "group", "pending", "message"),
    [
        ("x", "stations", None, "No host matches target `x`. Hosts of group stations: a, b, c."),
        ("a,db", "stations", None, "contains db, outside of group stations"),
        ("all", "pumps", None, "The inventory has no group `pumps`"),
        ("all", "empty", None, "Group empty has no hosts"),
        ("a", "stations", ["b"], "Nothing is pending"),
    ],
)
def test_refused_targets(target: str, group: str, pending: list[str] | None, message: str) -> None:
    with pytest.raises(opening.RefusedError) as caught:
        opening.resolve_targets(describe(group=group), chosen(target), GROUPS, match, pending)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("minimum", "dead", "refused"), [(1, 2, False), (1, 3, True), ("all", 1, True), (0, 3, False)]
)
def test_the_minimum(minimum: int | str, dead: int, refused: bool) -> None:
    knocks = {host: Knock(host, index >= dead, "silent") for index, host in enumerate("abc")}
    if refused:
        with pytest.raises(opening.RefusedError, match=r"targets can be reached and this runbook needs"):
            opening.partition(describe(minimum), list("abc"), knocks)
    else:
        parts = opening.partition(describe(minimum), list("abc"), knocks)
        assert (parts.reachable, list(parts.unreachable)) == (list("abc")[dead:], list("abc")[:dead])


def test_a_minimum_is_never_more_than_the_targets() -> None:
    assert opening.required_count(describe(5), 2) == 2


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def answer(server: socket.socket, banner: bytes) -> None:
    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(banner)

    threading.Thread(target=serve, daemon=True).start()


def knock(server: socket.socket) -> Knock:
    port = int(server.getsockname()[1])
    return probe_all([Endpoint("host", "127.0.0.1", port)], timeout_s=0.3)["host"]


def test_an_ssh_server_is_reachable(server: socket.socket) -> None:
    answer(server, b"SSH-2.0-test\r\n")
    assert knock(server).reachable


def test_another_server_is_not(server: socket.socket) -> None:
    answer(server, b"220 mail\r\n")
    assert "not an ssh server" in knock(server).message


def test_a_frozen_host_is_not_although_its_port_is_open(server: socket.socket) -> None:
    assert "the port is open, but no ssh banner came within 0.3 s" in knock(server).message


def test_a_closed_port_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = int(closed.getsockname()[1])
    found = probe_all([Endpoint("host", "127.0.0.1", port), Endpoint("odd", "no.such.host.invalid", 22)])
    assert found["host"].message.endswith("Connection refused")
    assert not found["odd"].reachable


def test_many_silent_hosts_take_the_time_of_one(server: socket.socket) -> None:
    port = int(server.getsockname()[1])
    server.listen(128)
    begin = time.monotonic()
    found = probe_all([Endpoint(str(number), "127.0.0.1", port) for number in range(60)], timeout_s=2)
    assert not any(item.reachable for item in found.values())
    assert time.monotonic() - begin < 60, "one after the other they take 120 s"


def run(**changes: Any) -> dict[str, Any]:
    facts = {
        "id": "run-1",
        "name": "sample_work",
        "check_mode": False,
        "targets": ["a", "b"],
        "unreachable": {},
        "started_at": "2026-11-21T08:00:00+00:00",
    }
    return {**facts, **changes}


def close(results: dict[str, Any], observed: Observed | None = None, **changes: Any) -> closing.Report:
    required = changes.pop("required", 1)
    safety = changes.pop("safety", False)
    watched = observed or Observed(watched=True)
    return closing.add_up(run(**changes), results, watched, required=required, safety=safety)


OK = {"status": "ok", "message": "fine"}


def test_all_well() -> None:
    report = close({"a": OK, "b": {"status": "changed"}})
    assert report.succeeded
    assert (report.hosts("ok"), report.hosts("changed")) == (["a"], ["b"])


@pytest.mark.parametrize("status", ["failed", "unknown", "accepted_unverified", "rejected", "contended"])
def test_only_proven_outcomes_are_success(status: str) -> None:
    assert close({"a": OK, "b": {"status": status}}).problems == ["Failed on b."]


def test_a_host_that_was_not_attempted_is_neither_changed_nor_failed_and_fails_the_run() -> None:
    report = close({"a": {"status": "failed"}, "b": {"status": "not_attempted"}})
    assert report.hosts("not_attempted") == ["b"]
    assert report.problems[:2] == ["Failed on a.", "Not attempted on b: nothing was changed there."]
    assert not close({"a": OK, "b": {"status": "not_attempted"}}).succeeded


@pytest.mark.parametrize("result", [{"status": "done"}, "ok", {}, None])
def test_a_result_that_is_none_does_not_add_up(result: Any) -> None:
    results = {"a": OK} if result is None else {"a": OK, "b": result}
    problem = close(results).problems[0]
    assert "The result sets do not add up: 1 ok + 0 changed + 0 failed + 0 unreachable is not 2" in problem
    assert "No usable result from b" in problem


def test_a_silent_host_is_unreachable_when_nobody_watched() -> None:
    assert close({"a": OK}, Observed(watched=False)).hosts("unreachable") == ["b"]


def test_the_word_of_a_dead_host_does_not_count_but_a_measurement_does() -> None:
    dead = Observed(True, unreachable={"a": "no route", "b": "no route"})
    report = close({"a": OK, "b": {"status": "verified"}}, dead)
    assert (report.hosts("unreachable"), report.hosts("changed")) == (["a"], ["b"])


def test_a_failure_that_nothing_rescued_counts() -> None:
    report = close({"a": OK}, Observed(True, failed={"b": "task `x` failed: on fire"}))
    assert report.rows[1].message == "task `x` failed: on fire"
    assert not report.succeeded


def test_the_required_number_must_have_succeeded() -> None:
    report = close({"a": OK}, required=2, unreachable={"b": "silent"})
    assert report.problems == ["Succeeded on 1 of 2 targets; 2 are required."]
    assert close({"a": OK}, required=1, unreachable={"b": "silent"}).succeeded


def test_towards_safety_unproven_is_not_done() -> None:
    report = close({"a": {"status": "verified"}}, safety=True, unreachable={"b": "silent"})
    assert report.problems == ["Not proven on b: treat as NOT done."]


def test_results_of_hosts_that_were_no_target_are_told() -> None:
    assert "no target: c" in close({"a": OK, "b": OK, "c": OK}).problems[0]


STATUSES = [*closing.SETS, *closing.STATUS_SETS]


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(STATUSES), min_size=1))
def test_every_target_is_in_exactly_one_set(statuses: dict[str, str]) -> None:
    results = {host: {"status": status} for host, status in statuses.items()}
    report = close(results, targets=sorted(statuses))
    assert sorted(host for name in closing.SETS for host in report.hosts(name)) == sorted(statuses)


def test_the_summary_fits_a_terminal() -> None:
    report = close({"a": {"status": "ok", "message": "long " * 60}, "b": {"status": "failed"}})
    lines = closing.summary(run(), report).splitlines()
    assert lines[0] == "sample_work FAILED: 2 intended, 1 ok, 1 failed."
    assert max(len(line) for line in lines) <= 100
    assert lines[-1] == "Run run-1, started 2026-11-21T08:00:00+00:00."
