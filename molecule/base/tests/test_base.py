"""What the base role promises, seen from outside."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

_STATE = os.environ.get("STATIONKEEPER_STATE") or str(Path(__file__).parents[3] / ".state")
STATE = Path(_STATE) / "lab/molbase"
SCENARIO = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "setting",
    [
        "permitrootlogin no",
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
        "x11forwarding no",
        "persourcepenaltyexemptlist 10.78.30.1",
    ],
)
def test_sshd_enforces(host: Any, setting: str) -> None:
    assert setting in host.check_output("sshd -T").splitlines()


def test_a_change_that_locks_the_control_node_out_undoes_itself(host: Any) -> None:
    before = host.check_output("sshd -T")
    variables = {"_base_sshd": {"AllowUsers": "nobody"}, "base_sshd_undo_s": 25}
    command = ["ansible-playbook", "-i", SCENARIO / "molbase", SCENARIO / "converge.yml"]
    play = subprocess.run(
        [*command, "-e", json.dumps(variables)],
        capture_output=True,
        text=True,
        check=False,
        cwd=SCENARIO.parents[1],
    )
    # testinfra has a connection of its own that stands.
    until = time.monotonic() + 40
    while not let_in() and time.monotonic() < until:
        time.sleep(1)
    assert let_in()
    assert play.returncode != 0
    assert "Those before are back within 25 seconds" in " ".join((play.stdout + play.stderr).split())
    assert host.check_output("sshd -T") == before
    assert "~" not in host.check_output("ls /etc/ssh/sshd_config.d")


def let_in() -> bool:
    """Whether a new connection of the control node is let in."""
    options = ["-F", STATE / "ssh_config", "-o", "ControlPath=none", "-o", "ConnectTimeout=5"]
    done = subprocess.run(["ssh", *options, "base1", "true"], capture_output=True, check=False, timeout=30)
    return done.returncode == 0


def test_ssh_audit_finds_nothing_weak(host: Any) -> None:
    audit = subprocess.run(
        ["ssh-audit", "--json", "10.78.30.11"], capture_output=True, text=True, check=False, timeout=120
    )
    found = json.loads(audit.stdout)
    weak = {
        f"{kind} {one['algorithm']}": notes
        for kind in ("kex", "key", "enc", "mac")
        for one in found[kind]
        for notes in [one["notes"].get("fail", []) + one["notes"].get("warn", [])]
        if notes
    }
    assert weak == {}


def test_ssh_offers_keys_only() -> None:
    options = ["-o", f"UserKnownHostsFile={STATE}/known_hosts", "-o", "StrictHostKeyChecking=yes"]
    options += ["-o", "BatchMode=yes", "-o", "PreferredAuthentications=none", "-F", "/dev/null"]
    refused = subprocess.run(
        ["ssh", *options, "root@10.78.30.11"], capture_output=True, text=True, check=False, timeout=30
    )
    assert "Permission denied (publickey)" in refused.stderr


def test_ops_is_administrator_without_a_password(host: Any) -> None:
    assert host.user("ops").exists
    assert host.user("ops").password.startswith("!")
    assert host.check_output("sudo -u ops sudo -n id -u") == "0"
    assert host.file("/etc/sudoers.d/stationkeeper").mode == 0o440


def test_journal_survives(host: Any) -> None:
    assert host.file("/var/log/journal").is_directory
    assert int(host.check_output("journalctl --list-boots --quiet | wc -l")) >= 1


def test_updates_are_scheduled(host: Any) -> None:
    assert host.service("apt-daily-upgrade.timer").is_running
    assert host.service("apt-daily-upgrade.timer").is_enabled
    dry = host.run("unattended-upgrade --dry-run")
    assert dry.rc == 0, dry.stderr


def test_time_is_utc(host: Any) -> None:
    assert host.check_output("date +%Z") == "UTC"
