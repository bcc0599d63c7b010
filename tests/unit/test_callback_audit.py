"""The audit callback in real ansible-playbook runs on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stationkeeper.audit import record
from stationkeeper.audit.paths import AuditPaths
from stationkeeper.audit.verify import verify

ROOT = Path(__file__).resolve().parents[2]

CONFIGURATION = """
[defaults]
callbacks_enabled = audit
library = library
inventory = hosts.ini
inject_facts_as_vars = False
inject_invocation = True
localhost_warning = False
"""
MODULE = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule

def main():
    module = AnsibleModule(
        argument_spec={"name": {"type": "str"}, "hidden": {"type": "str", "no_log": True},
                       "fail": {"type": "bool", "default": False}},
        supports_check_mode=True)
    if module.params["fail"]:
        module.fail_json(msg="no login as %(name)s with %(hidden)s" % module.params)
    module.exit_json(changed=True, diff={"before": {"name": "", "token": "x"}, "after": module.params})

main()
"""


class Sandbox:
    """A small repository with the callback beside its playbook, and a state directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = AuditPaths(folder / "state" / "audit")
        for name in ("playbooks/callback_plugins", "library"):
            (folder / name).mkdir(parents=True)
        source = ROOT / "playbooks/callback_plugins/audit.py"
        (folder / "playbooks/callback_plugins/audit.py").symlink_to(source)
        (folder / "ansible.cfg").write_text(CONFIGURATION)
        (folder / "library/thing.py").write_text(MODULE)
        (folder / "hosts.ini").write_text("localhost\n")
        (folder / "hosts.ini").chmod(0o600)
        self.environment = {
            **{
                key: value
                for key, value in os.environ.items()
                if not key.startswith(("ANSIBLE_", "STATIONKEEPER_"))
            },
            "STATIONKEEPER_STATE": str(folder / "state"),
            "STATIONKEEPER_AUDIT_SPOOL": str(folder / "spool"),
            "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "PYTHONPATH": str(ROOT / "src"),
        }

    def command(self, tasks: list[dict[str, Any]], *arguments: str, **play: Any) -> list[str]:
        head = {"hosts": "localhost", "connection": "local", "gather_facts": False, "name": "Try"}
        variables = {"ansible_python_interpreter": sys.executable, **play.pop("vars", {})}
        content = [{**head, "vars": variables, "tasks": tasks, **play}]
        (self.folder / "playbooks/try.yml").write_text(json.dumps(content))
        return [str(Path(sys.executable).parent / "ansible-playbook"), "playbooks/try.yml", *arguments]

    def run(self, tasks: list[dict[str, Any]], *arguments: str, expected: int = 0, **play: Any) -> str:
        done = subprocess.run(
            self.command(tasks, *arguments, **play),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        output = done.stdout + done.stderr
        assert done.returncode == expected, output
        assert "DEPRECATION" not in output
        return output

    def records(self, event: str | None = None) -> list[dict[str, Any]]:
        lines = self.paths.chain.read_bytes().splitlines()
        found = [record.parse(line) for line in lines]
        return [entry for entry in found if event is None or entry["event"] == event]


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def test_a_run_is_recorded_from_start_to_end(sandbox: Sandbox) -> None:
    runbook = {"title": "Try things", "risk": "change", "area": "try"}
    lookup = "{{ lookup('ansible.builtin.env', '%s') }}"
    output = sandbox.run(
        [
            {"name": "Show the run", "ansible.builtin.debug": {"msg": lookup % "STATIONKEEPER_RUN_ID"}},
            {
                "name": "Show its state",
                "ansible.builtin.debug": {"msg": lookup % "STATIONKEEPER_AUDIT_STATE"},
            },
            {"name": "Change a thing", "thing": {"name": "a"}, "tags": ["now"]},
        ],
        *("--tags", "all", "--limit", "localhost", "-e", "reason='new battery'", "-e", "ticket=CHG-7"),
        vars={"runbook": runbook},
    )
    events = [entry["event"] for entry in sandbox.records()]
    assert events == ["CHAIN_START", "START", "CHANGE", "END"]
    start, change, end = sandbox.records()[1:]
    assert start["run_id"] in output
    assert '"msg": "recorded"' in output
    assert {entry["run_id"] for entry in (start, change, end)} == {start["run_id"]}
    data = start["data"]
    assert data["playbook"].endswith("playbooks/try.yml")
    assert (data["reason"], data["ticket"], data["mode"], data["limit"]) == (
        "new battery",
        "CHG-7",
        "real",
        "localhost",
    )
    assert data["runbook"] == runbook
    assert data["tags"] == ["all"]
    assert data["who"]["service"]
    assert set(data["clock"]) >= {"synchronised"}
    assert len(data["commit"]) == 40
    assert isinstance(data["dirty"], bool)
    assert data["inventory"] == [str(sandbox.folder / "hosts.ini")]
    changed = change["data"]
    assert (changed["host"], changed["task"], changed["module"]) == ("localhost", "Change a thing", "thing")
    assert changed["args"] == {"name": "a", "fail": False}
    assert "+name: a" in changed["diff"][0]["text"]
    assert end["data"]["outcome"] == "ok"
    assert end["data"]["totals"]["changed"] == 1
    assert end["data"]["recorded"] == {"changes": 1, "failures": 0, "unreachable": 0}
    assert verify(sandbox.paths.chain, sandbox.paths.keys).ok


def test_check_mode_failures_and_unreachable_hosts(sandbox: Sandbox) -> None:
    (sandbox.folder / "hosts.ini").write_text("localhost\ndead ansible_host=127.0.0.1 ansible_port=9\n")
    sandbox.run(
        [
            {"name": "Would change", "thing": {"name": "a"}},
            {"name": "Really runs", "thing": {"name": "b"}, "check_mode": False},
            {"name": "Fail a bit", "thing": {"name": "c", "fail": True}, "ignore_errors": True},
            {"name": "Fail", "thing": {"name": "d", "fail": True}},
        ],
        "--check",
        expected=2,
    )
    sandbox.run([{"name": "Reach", "ansible.builtin.ping": {}}], expected=4, hosts="dead", connection="ssh")
    sandbox.run([{"name": "Nothing", "ansible.builtin.ping": {}}], hosts="nobody")
    first = sandbox.records()[1]["run_id"]
    described = [
        (e["event"], e["data"]["mode"], e["data"]["task"], e["data"].get("ignored"))
        for e in sandbox.records()
        if e["run_id"] == first and e["event"] in {"CHANGE", "RESULT"}
    ]
    assert described == [
        ("CHANGE", "check", "Would change", None),
        ("CHANGE", "real", "Really runs", None),
        ("RESULT", "check", "Fail a bit", True),
        ("RESULT", "check", "Fail", False),
    ]
    unreachable = sandbox.records("RESULT")[-1]["data"]
    assert (unreachable["status"], unreachable["host"]) == ("unreachable", "dead")
    outcomes = [(e["data"]["outcome"], e["data"]["mode"]) for e in sandbox.records("END")]
    assert outcomes == [("failed", "check"), ("unreachable", "real"), ("no_hosts", "real")]
    assert sandbox.records("END")[-1]["data"]["plays_without_hosts"] == ["Try"]


def test_planted_secrets_never_reach_the_chain(sandbox: Sandbox) -> None:
    planted = {
        "option": "plant-no-log-option",
        "task": "plant-no-log-task",
        "variable": "plant-in-variable",
        "extra": "plant-extra-variable",
        "loop": "plant-in-loop-item",
        "url": "plant-in-url",
        "content": "plant-in-content",
        "failing": "plant-in-failure",
        "argument": "plant-in-command",
        "nested": "plant-in-nested-item",
        "inventory": "plant-in-inventory",
    }
    (sandbox.folder / "hosts.ini").write_text(f"localhost secret_of_host={planted['inventory']}\n")
    file = str(sandbox.folder / "out")
    output = sandbox.run(
        [
            {"name": "Option", "thing": {"name": "a", "hidden": planted["option"]}},
            {"name": "Task", "thing": {"name": planted["task"]}, "no_log": True},
            {"name": "Variable", "ansible.builtin.command": "echo {{ db_password }} {{ secret_of_host }}"},
            {"name": "Name {{ db_password }}", "thing": {"name": "x"}},
            {
                "name": "Loop",
                "thing": {"name": "{{ item.name }}", "hidden": "{{ item.word }}"},
                "loop": [{"name": "u1", "word": planted["loop"]}, {"name": "u2", "word": planted["loop"]}],
            },
            {
                "name": "Loop that fails",
                "thing": {"name": "u", "hidden": "{{ item }}", "fail": True},
                "loop": [planted["failing"]],
                "ignore_errors": True,
            },
            {
                "name": "Loop over nested data",
                "ansible.builtin.copy": {"content": "x", "dest": file + "{{ item.n }}", "mode": "0600"},
                "loop": [{"n": 1, "users": [{"word": planted["nested"]}]}],
                "diff": True,
            },
            {"name": "Url", "ansible.builtin.command": f"echo postgresql://flux:{planted['url']}@db/flux"},
            {"name": "Command", "ansible.builtin.command": f"echo --token {planted['argument']}"},
            {
                "name": "Content",
                "ansible.builtin.copy": {
                    "content": f"password: {planted['content']}\n",
                    "dest": file,
                    "mode": "0600",
                },
                "diff": True,
            },
        ],
        *("-e", json.dumps({"api_token": planted["extra"], "plain": "seen"})),
        vars={"db_password": planted["variable"]},
    )
    stored = sandbox.paths.chain.read_text()
    for where, secret in planted.items():
        assert secret not in stored, where
    # The plants were really there, and what is no secret is recorded.
    assert planted["loop"] in output
    start = sandbox.records("START")[0]["data"]
    assert start["extra_vars"] == {"api_token": "********", "plain": "seen"}
    by_task = {entry["data"]["task"]: entry["data"] for entry in sandbox.records("CHANGE")}
    assert by_task["Task"]["no_log"] is True
    assert "args" not in by_task["Task"]
    assert by_task["Option"]["args"]["hidden"] == "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"
    assert [item["args"]["name"] for item in by_task["Loop"]["items"]] == ["u1", "u2"]
    assert (by_task["Loop"]["items_total"], by_task["Loop"]["items_concerned"]) == (2, 2)
    assert by_task["Command"]["args"]["_raw_params"] == "echo --token ********"
    assert by_task["Content"]["result"]["dest"] == file
    assert "+password: ********" in by_task["Content"]["diff"][0]["text"]


def test_a_killed_run_is_aborted_by_the_next(sandbox: Sandbox) -> None:
    marker = sandbox.folder / "started"
    tasks = [
        {"name": "Mark", "ansible.builtin.file": {"path": str(marker), "state": "touch", "mode": "0600"}},
        {"name": "Wait", "ansible.builtin.pause": {"seconds": 60}},
    ]
    with subprocess.Popen(
        sandbox.command(tasks),
        cwd=sandbox.folder,
        env=sandbox.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            deadline = time.monotonic() + 30
            while not (marker.exists() and sandbox.records("CHANGE")) and time.monotonic() < deadline:
                time.sleep(0.1)
            (run,) = verify(sandbox.paths.chain, sandbox.paths.keys).open_runs
            assert run.state == "alive"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    report = verify(sandbox.paths.chain, sandbox.paths.keys)
    assert not report.ok
    assert [run.state for run in report.open_runs] == ["gone"]
    output = sandbox.run([{"name": "Change", "thing": {"name": "a"}}])
    (aborted,) = sandbox.records("ABORTED")
    assert aborted["run_id"] == run.run_id
    assert f"recorded as ABORTED: {run.run_id}" in " ".join(output.split())
    events = [entry["event"] for entry in sandbox.records()]
    assert events[-4:] == ["ABORTED", "START", "CHANGE", "END"]
    assert verify(sandbox.paths.chain, sandbox.paths.keys).ok


def test_a_chain_that_cannot_be_written_is_said_and_does_not_stop_the_play(sandbox: Sandbox) -> None:
    sandbox.run([{"name": "Change", "thing": {"name": "a"}}])
    sandbox.paths.private_key.chmod(0o644)
    state = {"msg": "{{ lookup('ansible.builtin.env', 'STATIONKEEPER_AUDIT_STATE') }}"}
    output = sandbox.run(
        [{"name": "State", "ansible.builtin.debug": state}, {"name": "Change", "thing": {"name": "b"}}]
    )
    assert '"msg": "failed"' in output
    assert "this run cannot be recorded" in " ".join(output.split())
    sandbox.paths.private_key.chmod(0o600)
    sandbox.run([{"name": "Change", "thing": {"name": "c"}}])
    tasks = [entry["data"]["args"]["name"] for entry in sandbox.records("CHANGE")]
    assert tasks == ["a", "b", "c"]
    assert len(sandbox.records("END")) == 3
    assert verify(sandbox.paths.chain, sandbox.paths.keys).ok


def test_a_run_within_a_run_names_its_parent(sandbox: Sandbox) -> None:
    sandbox.environment["STATIONKEEPER_RUN_ID"] = "outer"
    sandbox.run([{"name": "Change", "thing": {"name": "a"}}])
    (start,) = sandbox.records("START")
    assert start["data"]["parent_run_id"] == "outer"
    assert start["run_id"] != "outer"


def test_it_works_under_ansible_runner(sandbox: Sandbox) -> None:
    sandbox.command([{"name": "Change", "thing": {"name": "a"}}])
    program = (
        "import ansible_runner, sys; r = ansible_runner.run(private_data_dir=sys.argv[1], "
        "project_dir=sys.argv[2], playbook='playbooks/try.yml', inventory=sys.argv[2] + '/hosts.ini', "
        "quiet=True, extravars={'awx_job_id': 7, 'awx_user_name': 'petra'}, "
        "envvars={'JOB_ID': '7'}); sys.exit(r.rc)"
    )
    private = sandbox.folder / "private"
    private.mkdir()
    environment = {**sandbox.environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(private), str(sandbox.folder)],
        cwd=sandbox.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [entry["event"] for entry in sandbox.records()] == ["CHAIN_START", "START", "CHANGE", "END"]
    start = sandbox.records("START")[0]["data"]
    assert start["who"]["person"] == "petra"
    assert start["who"]["source"] == "awx"
    assert start["awx"]["awx_job_id"] == 7
