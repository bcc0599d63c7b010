"""The waves of a staged rollout, through real runs of ansible-playbook with the real task files."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, Environment

HOSTS = ("a", "b", "c", "d", "e")
PLAYBOOK = """
- name: Open
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Plan the waves
      rollout_state:
        state: opened
        directory: "{{ playbook_dir | dirname }}/state/rollouts"
        runbook: edge_sample
        run_id: "{{ run_id }}"
        what: {version: 1}
        targets: "{{ groups['stations'] }}"
        reachable: "{{ groups['stations'] }}"
        canary: "{{ canary | default(omit) }}"
        wave_size: 2
      register: plan

    - name: Keep the run
      ansible.builtin.set_fact:
        run: {id: "{{ run_id }}", state_directory: "{{ playbook_dir | dirname }}/state"}

- name: Go
  hosts: stations
  gather_facts: false
  vars:
    _run: "{{ hostvars['localhost'].run }}"
    _plan: "{{ hostvars['localhost'].plan }}"
    station_devices: []
  tasks:
    - name: Go through the waves
      ansible.builtin.include_tasks: tasks/edge_wave.yml
      loop: "{{ _plan.waves }}"
      loop_control:
        loop_var: edge_wave
        index_var: edge_wave_number
      vars:
        edge_wave_tasks: "{{ playbook_dir }}/work.yml"
"""
# Slower on the hosts of the early waves: who is quick must not go first.
WORK = """
- name: Work
  ansible.builtin.shell: sleep {{ _slow }}; echo {{ inventory_hostname }} >> {{ playbook_dir }}/order
  vars: {_slow: "{{ 1 if inventory_hostname in ['c', 'e'] else 0 }}"}
- name: Break
  ansible.builtin.fail: {msg: broken on purpose}
  when: inventory_hostname == broken | default('')
- name: Keep what was done
  ansible.builtin.set_fact:
    edge_station_result: {status: changed, message: done, evidence: {}}
"""


@dataclass
class Project:
    """A project of five local hosts with the repository's modules, filters and wave tasks."""

    path: Path
    environment: Environment

    def run(self, run_id: str, *arguments: str, **variables: str) -> str:
        (self.path / "playbooks" / "order").unlink(missing_ok=True)
        extra = json.dumps({"run_id": run_id, **variables})
        done = self.environment.run(
            ["ansible-playbook", "-i", "hosts.yml", "playbooks/go.yml", "-e", extra, *arguments], self.path
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def order(self) -> list[str]:
        path = self.path / "playbooks" / "order"
        return path.read_text().split() if path.exists() else []

    @property
    def state(self) -> dict[str, Any]:
        (path,) = (self.path / "state" / "rollouts").glob("[!.]*.json")
        return dict(json.loads(path.read_text()))

    @property
    def statuses(self) -> dict[str, str]:
        return {host: result["status"] for host, result in self.state["hosts"].items()}


@pytest.fixture
def project(tmp_path: Path, ansible_environment: Environment) -> Project:
    for name in ("library", "filter_plugins", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "ansible.cfg", tmp_path)
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "tasks").symlink_to(ROOT / "playbooks" / "tasks")
    (tmp_path / "playbooks" / "go.yml").write_text(PLAYBOOK)
    (tmp_path / "playbooks" / "work.yml").write_text(WORK)
    hosts = "".join(f"        {host}:\n" for host in HOSTS)
    (tmp_path / "hosts.yml").write_text(
        "all:\n  vars:\n    ansible_connection: local\n"
        '    ansible_python_interpreter: "{{ ansible_playbook_python }}"\n'
        f"  children:\n    stations:\n      hosts:\n{hosts}"
    )
    return Project(tmp_path, ansible_environment)


@pytest.mark.parametrize("canary", ["c", "e"])
def test_waves_keep_their_order_whoever_answers_first(project: Project, canary: str) -> None:
    project.run("run-1", canary=canary)
    first, *rest = [host for host in HOSTS if host == canary] + [host for host in HOSTS if host != canary]
    assert project.order[0] == first
    assert [sorted(project.order[1:3]), sorted(project.order[3:])] == [sorted(rest[:2]), sorted(rest[2:])]
    assert set(project.statuses.values()) == {"changed"}
    assert project.state["state"] == "done"


def test_a_failed_canary_stops_everything_and_the_next_run_goes_on(project: Project) -> None:
    project.run("run-1", canary="d", broken="d")
    assert project.order == ["d"]
    assert project.statuses == {"d": "failed", **dict.fromkeys("abce", "not_attempted")}
    assert project.state["hosts"]["a"]["message"] == "the rollout stopped before: d is failed"
    assert project.state["hosts"]["d"]["message"] == "broken on purpose"
    project.run("run-2")
    assert project.order[0] == "d", "the canary was forgotten"
    assert set(project.statuses.values()) == {"changed"}
    assert project.state["runs"] == ["run-1", "run-2"]


def test_a_failure_in_a_wave_ends_with_that_wave(project: Project) -> None:
    project.run("run-1", canary="a", broken="b")
    assert sorted(project.order) == ["a", "b", "c"]
    assert project.statuses == {
        "a": "changed",
        "b": "failed",
        "c": "changed",
        "d": "not_attempted",
        "e": "not_attempted",
    }
    assert project.state["state"] == "stopped"


def test_a_preview_goes_through_all_waves_and_writes_nothing(project: Project) -> None:
    output = project.run("run-1", "--check")
    assert output.count("Keep what was done") >= 3
    assert project.order == []
    assert not (project.path / "state").exists()
