"""The guards of the runbook contract, through real runs of ansible-playbook on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, Environment

from stationkeeper.runbooks.lock import Lock
from stationkeeper.runbooks.pending import Entry, Ledger
from stationkeeper.runbooks.process import describe_process

FIXTURE = Path(__file__).parent / "fixtures" / "guard"
HOSTS = ("wlce", "hmce", "lfce")


@dataclass
class Project:
    """A copy of the guard project, with the repository's role, modules and plugins."""

    path: Path
    environment: Environment
    output: str = field(default="")

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.state / "pending", "guard_work")

    def lock(self, host: str) -> Lock:
        return Lock("station", self.path / "hosts" / host / "locks")

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.path / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def behave(self, host: str, mode: str) -> None:
        self.edit("hosts.yml", f"        {host}:\n", f"        {host}: {{guard_mode: {mode}}}\n")

    def run(self, *arguments: str, **variables: str) -> int:
        """Run the runbook; the whole output is kept with its white space folded."""
        done = self.environment.run(
            ["ansible-playbook", "-i", "hosts.yml", "playbooks/guard_work.yml", *arguments],
            self.path,
            STATIONKEEPER_STATE=str(self.state),
            **variables,
        )
        self.output = " ".join((done.stdout + done.stderr).split())
        assert "DEPRECATION WARNING" not in self.output
        return done.returncode

    def marks(self) -> list[str]:
        return sorted(path.parent.name for path in self.path.glob("hosts/*/mark"))

    def untouched(self) -> bool:
        """Whether no host and no ledger was written."""
        traces = [*self.path.glob("hosts/*/*"), *self.path.glob("state/pending/*")]
        return not traces


@pytest.fixture
def project(tmp_path: Path, ansible_environment: Environment) -> Project:
    path = Path(shutil.copytree(FIXTURE, tmp_path / "project"))
    for name in ("roles", "library", "action_plugins", "src"):
        (path / name).symlink_to(ROOT / name)
    (path / "playbooks" / "callback_plugins").symlink_to(ROOT / "playbooks" / "callback_plugins")
    shutil.copy(ROOT / "ansible.cfg", path)
    for host in (*HOSTS, "fluxdb"):
        (path / "hosts" / host).mkdir(parents=True)
    return Project(path, ansible_environment)


REFUSALS: dict[str, tuple[list[str], str]] = {
    "unknown variable": (
        ["-e", "target=all reason=test windw_hours=3"],
        "Unknown input `windw_hours`. Did you mean `window_hours`?",
    ),
    "words without a name": (
        ["-e", "target=all", "-e", "reason=smoke at wlce"],
        "The words `at wlce` stand without a name: a value with spaces needs quotes",
    ),
    "wrong type": (
        ["-e", "target=all reason=test window_hours=many"],
        "Input `window_hours` must be a whole number, not 'many'.",
    ),
    "missing reason": (["-e", "target=all"], "A runbook of risk `change` needs a reason"),
    "missing target": (["-e", "reason=test"], "No target given: add -e target="),
    "empty target": (
        ["-e", "target=wlcd reason=test"],
        "No host matches target `wlcd`. Hosts of group stations",
    ),
    "foreign target": (
        ["-e", "target=wlce,fluxdb reason=test"],
        "Target `wlce,fluxdb` contains fluxdb, outside of group stations",
    ),
    "limit without localhost": (
        ["-e", "target=all reason=test", "--limit", "wlce"],
        "Refused: --limit leaves out localhost, so the runbook would not be opened",
    ),
    "limit with localhost": (
        ["-e", "target=all reason=test", "--limit", "wlce,localhost"],
        "--limit wlce,localhost would leave out hmce, lfce of the targets",
    ),
    "tags": (
        ["-e", "target=all reason=test", "--tags", "nothing"],
        "Refused: the runbook did not run as a whole, so this is no success.",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_input_is_refused(project: Project, arguments: list[str], message: str) -> None:
    assert project.run(*arguments) != 0
    assert message in project.output
    assert project.untouched()


def test_unreachable_hosts_below_the_minimum_are_refused(project: Project) -> None:
    project.edit(
        "hosts.yml", "lfce:", "lfce: {ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 9}"
    )
    assert project.run("-e", "target=lfce reason=test") != 0
    assert "0 of 1 targets can be reached and this runbook needs 1." in project.output
    assert "lfce (127.0.0.1 port 9: Connection refused)" in project.output
    assert project.untouched()


def test_a_destructive_run_needs_the_target_as_confirmation(project: Project) -> None:
    project.edit("playbooks/guard_work.yml", "risk: change", "risk: destructive")
    assert project.run("-e", "target=wlce reason=test confirm=wlc") != 0
    assert "The confirmation is 'wlc', but the target is 'wlce': they must be equal." in project.output
    assert project.untouched()


def test_no_change_without_an_audit_record(project: Project) -> None:
    assert project.run("-e", "target=all reason=test", ANSIBLE_CALLBACKS_ENABLED="nothing") != 0
    assert "The audit trail holds no START of this run" in project.output
    assert project.untouched()


def test_towards_safety_nothing_waits_for_the_audit(project: Project) -> None:
    project.edit("playbooks/guard_work.yml", "risk: change", "risk: safety")
    assert project.run("-e", "target=all reason=test", ANSIBLE_CALLBACKS_ENABLED="nothing") == 0, (
        project.output
    )
    assert project.marks() == sorted(HOSTS)


def test_a_held_lock_is_refused_and_says_by_whom(project: Project) -> None:
    held = _hold(project.lock("hmce"), {"user": "ada", "node": "elsewhere", "pid": 7})
    assert project.run("-e", "target=wlce,hmce reason=test") != 0
    assert "Lock `station` is held by ada@elsewhere (pid 7)" in project.output
    assert f"until {held}" in project.output
    assert project.marks() == ["wlce"]
    record = project.lock("hmce").read()
    assert record is not None
    assert record.run_id == "other"


def test_the_lock_of_a_dead_run_is_taken_over(project: Project) -> None:
    dead = subprocess.Popen(["true"])
    owner = describe_process(dead.pid)
    dead.wait()
    _hold(project.lock("wlce"), owner)
    assert project.run("-e", "target=wlce reason=test") == 0, project.output
    assert project.marks() == ["wlce"]
    assert project.lock("wlce").read() is None


def test_the_lock_of_a_living_run_is_not(project: Project) -> None:
    _hold(project.lock("wlce"), describe_process(os.getpid()))
    assert project.run("-e", "target=wlce reason=test") != 0
    assert "Lock `station` is held by" in project.output
    assert project.marks() == []


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("babbles", "The result sets do not add up: 0 ok + 2 changed + 0 failed + 0 unreachable is not 3"),
        ("keeps silent", "No usable result from hmce: find out what happened there"),
        ("fails", "hmce failed The battery said no."),
        ("burns", "hmce failed task `Fail where nothing rescues` failed: The station is on fire."),
    ],
)
def test_a_bad_result_fails_the_run(project: Project, mode: str, message: str) -> None:
    project.behave("hmce", mode)
    assert project.run("-e", "target=all reason=test") != 0
    assert message in project.output
    assert "guard_work FAILED: 3 intended, 2 changed" in project.output
    assert project.ledger.entries() == {}
    assert all(project.lock(host).read() is None for host in HOSTS)


def test_a_host_that_dies_under_way_is_not_counted_as_ok(project: Project) -> None:
    project.behave("hmce", "dies")
    assert project.run("-e", "target=all reason=test") == 0, project.output
    assert "3 intended, 2 changed, 1 unreachable." in project.output
    assert "hmce unreachable became unreachable in task" in project.output
    assert list(project.ledger.entries()) == ["hmce"]


def test_a_run_that_was_not_closed_says_so(project: Project) -> None:
    for host in HOSTS:
        project.behave(host, "burns")
    assert project.run("-e", "target=all reason=test") != 0
    assert "This runbook was opened but not closed" in project.output


def test_unreachable_hosts_wait_in_the_ledger_and_are_done_later(project: Project) -> None:
    dead = "lfce: {ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 9}"
    project.edit("hosts.yml", "lfce:", dead)
    assert project.run("-e", "target=all reason=swap ticket=T-1") == 0, project.output
    assert "3 intended, 2 changed, 1 unreachable." in project.output
    entry = project.ledger.entries()["lfce"]
    assert (entry.reason, entry.ticket, entry.inputs) == ("swap", "T-1", {"window_hours": 24})
    project.edit("hosts.yml", dead, "lfce:")
    assert project.run("-e", "reason=again runbook_limit_pending=true") == 0, project.output
    assert "1 intended, 1 changed." in project.output
    assert project.ledger.entries() == {}
    assert project.marks() == sorted(HOSTS)
    assert project.run("-e", "reason=again runbook_limit_pending=true") != 0
    assert "Nothing is pending" in project.output


def test_expired_work_never_runs(project: Project) -> None:
    past = datetime.now(UTC) - timedelta(hours=80)
    late = (past + timedelta(hours=72)).isoformat()
    project.ledger.update(add=[Entry("lfce", "", "old", "x", past.isoformat(), late)], remove=[], now=past)
    assert project.run("-e", "reason=again runbook_limit_pending=true") != 0
    assert "Nothing is pending" in project.output
    assert project.marks() == []


def test_check_mode_needs_no_reason_and_changes_nothing(project: Project) -> None:
    _hold(project.lock("hmce"), {"user": "ada", "node": "elsewhere", "pid": 7})
    before = _snapshot(project.path / "hosts")
    assert project.run("-e", "target=all", "--check", "--diff") == 0, project.output
    assert "guard_work SUCCEEDED (check mode: nothing was changed): 3 intended, 3 changed." in project.output
    assert "A real run would be refused now. Lock `station` is held by ada@elsewhere" in project.output
    assert _snapshot(project.path / "hosts") == before
    assert not (project.state / "pending").exists()


def test_a_second_run_changes_nothing_and_closes(project: Project) -> None:
    assert project.run("-e", "target=all reason=test") == 0, project.output
    assert project.run("-e", "target=all reason=test") == 0, project.output
    assert "3 intended, 3 ok." in project.output
    assert project.output.count("changed=0") == 4


def test_survey_answers_and_variables_of_awx(project: Project) -> None:
    answers = project.path / "extravars.json"
    answers.write_text(
        json.dumps(
            {"target": "wlce", "reason": "a survey", "window_hours": "3", "ticket": "", "awx_job_id": 7}
        ),
        encoding="utf-8",
    )
    assert project.run("-e", f"@{answers}") == 0, project.output
    assert (project.path / "hosts" / "wlce" / "mark").read_text(encoding="utf-8").strip() == "3"


def test_under_ansible_runner(project: Project) -> None:
    (project.path / "runner").mkdir()
    extra = {"target": "wlce", "reason": "test", "window_hours": "5"}
    script = project.path / "run.py"
    script.write_text(
        "import sys\n"
        "import ansible_runner\n"
        f"run = ansible_runner.run(private_data_dir='runner', project_dir={str(project.path)!r},\n"
        f"    playbook='playbooks/guard_work.yml', inventory={str(project.path / 'hosts.yml')!r},\n"
        f"    extravars={extra!r}, suppress_env_files=True)\n"
        "sys.exit(run.rc)\n",
        encoding="utf-8",
    )
    done = project.environment.run(
        ["python", str(script)],
        project.path,
        STATIONKEEPER_STATE=str(project.state),
        ANSIBLE_CONFIG=str(project.path / "ansible.cfg"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project.path / "hosts" / "wlce" / "mark").read_text(encoding="utf-8").strip() == "5"


def _hold(lock: Lock, owner: dict[str, Any]) -> str:
    """Another run takes the lock; returns until when."""
    attempt = lock.acquire(run_id="other", runbook="edge_upgrade", purpose="upgrade", owner=owner, ttl_s=900)
    assert attempt.holder is not None
    return attempt.holder.until


def _snapshot(path: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file.relative_to(path)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in path.rglob("*")
        if file.is_file()
    }
