"""What a run in check mode says of hosts that are not as declared."""

from __future__ import annotations

from typing import Any

from stationkeeper.drift import Drift


def event(
    kind: str, host: str, *, changed: bool = False, task: str = "Configure", role: str = ""
) -> dict[str, Any]:
    data = {"host": host, "task": task, "res": {"changed": changed}} | ({"role": role} if role else {})
    return {"event": kind, "event_data": data}


def test_tasks_that_would_change_something_are_named_by_host() -> None:
    seen = Drift()
    for one in (
        {"event": "playbook_on_start", "event_data": {}},
        event("runner_on_ok", "wlce"),
        event("runner_on_ok", "hub", changed=True, role="redis"),
        event("runner_on_ok", "hub", changed=True, task="Write a file"),
        # Each item of a loop comes by itself before its task does.
        event("runner_item_on_ok", "wlce", changed=True),
    ):
        assert seen.take(one) is False
    seen.finish({"failures": {}})
    assert seen.hosts == {"wlce": [], "hub": ["redis: Configure", "Write a file"]}
    assert seen.unknown == {}


def test_a_host_that_was_not_looked_at_to_the_end_is_not_good() -> None:
    seen = Drift()
    seen.take(event("runner_on_unreachable", "lfce"))
    seen.take(event("runner_on_failed", "hub"))
    seen.take(event("runner_on_failed", "wlce"))
    seen.finish({"failures": {"hub": 1, "wlce": 0}})
    assert seen.unknown == {"lfce": "unreachable", "hub": "a task failed, so the rest was not looked at"}
