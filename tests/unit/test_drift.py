"""What a run in check mode says of hosts that are not as declared."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from module_runner import run_module

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
    seen.take({"event": "playbook_on_stats", "event_data": {"failures": {}}})
    assert seen.ended
    assert seen.hosts == {"wlce": [], "hub": ["redis: Configure", "Write a file"]}
    assert seen.unknown == {}


def test_a_host_that_was_not_looked_at_to_the_end_is_not_good() -> None:
    seen = Drift()
    seen.take(event("runner_on_unreachable", "lfce"))
    seen.take(event("runner_on_failed", "hub"))
    seen.take(event("runner_on_failed", "wlce"))
    seen.take({"event": "playbook_on_stats", "event_data": {"failures": {"hub": 1, "wlce": 0}}})
    assert seen.unknown == {"lfce": "unreachable", "hub": "a task failed, so the rest was not looked at"}


NAMES = ("hub", "wlce", "broken")
PLAYBOOK = """
- hosts: all
  connection: local
  gather_facts: false
  tasks:
    - name: Write the file
      ansible.builtin.copy:
        content: "a value that nobody shall see"
        dest: "{{ inventory_dir }}/{{ inventory_hostname }}.txt"
        mode: "0644"
    - name: Fail on one
      ansible.builtin.assert:
        that: inventory_hostname != 'broken'
"""


def test_a_playbook_is_asked_and_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "playbooks"
    folder.mkdir()
    (folder / "site.yml").write_text(PLAYBOOK)
    hosts = "".join(f"{name} ansible_python_interpreter={sys.executable}\n" for name in NAMES)
    (tmp_path / "hosts").write_text(hosts)
    (tmp_path / "wlce.txt").write_text("a value that nobody shall see")
    (tmp_path / "wlce.txt").chmod(0o644)
    given = {"inventory": str(tmp_path / "hosts"), "playbook": str(folder / "site.yml")}
    found = run_module(tmp_path, "site_drift", given, hidden="a value that nobody shall see")
    assert "drift" in found, found["msg"]
    assert found["drift"] == {"hub": ["Write the file"], "wlce": [], "broken": ["Write the file"]}
    assert found["unknown"] == {"broken": "a task failed, so the rest was not looked at"}
    assert found["changed"] is False
    assert not (tmp_path / "hub.txt").exists()
    some = run_module(tmp_path, "site_drift", {**given, "hosts": ["wlce"]})
    assert some["drift"] == {"wlce": []}


def test_a_playbook_that_cannot_begin_is_told(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("hub\n")
    (tmp_path / "site.yml").write_text("- hosts: all\n  tasks: nonsense\n")
    given = {"inventory": str(tmp_path / "hosts"), "playbook": str(tmp_path / "site.yml")}
    assert (
        "site.yml did not begin, or did not come to its end"
        in run_module(tmp_path, "site_drift", given)["msg"]
    )
