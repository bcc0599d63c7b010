"""What the base role promises, seen from outside."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

_STATE = os.environ.get("STATIONKEEPER_STATE") or str(Path(__file__).parents[3] / ".state")
STATE = Path(_STATE) / "lab/molbase"


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
