"""The audit of access: silent on hosts as declared, and what somebody has left behind is told."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from system import LabSystem

# What an intruder, or a colleague in a hurry, leaves: an account, a key, sudo, a listener.
LEFT = """
useradd -m -u 1001 -s /bin/bash eve
install -d -m 0700 -o eve -g eve /home/eve/.ssh
echo "$KEY" > /home/eve/.ssh/authorized_keys
chown eve:eve /home/eve/.ssh/authorized_keys
echo "eve ALL=(ALL) NOPASSWD: ALL" > /etc/sudoers.d/eve
systemd-run --unit=left_behind python3 -m http.server 4444
"""
REMOVED = """
systemctl stop left_behind
rm -f /etc/sudoers.d/eve
pkill -KILL -u eve
sleep 1
userdel -f -r eve 2>/dev/null
! id eve 2>/dev/null
"""


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@pytest.fixture
def left_behind(flux_ha: LabSystem, key: Path) -> Iterator[str]:
    host = flux_ha.stations[0]
    public = key.with_suffix(".pub").read_text().strip()
    flux_ha.on_host(host, "sh", "-c", f"KEY='{public}'\n{LEFT}")
    yield host
    flux_ha.on_host(host, "sh", "-c", REMOVED)


def test_hosts_as_declared_have_no_difference(flux_ha: LabSystem) -> None:
    play = flux_ha.playbook("security_access_audit")
    assert play.code == 0, play.output[-6000:]
    assert play.changed == {}
    assert play.output.count("all as declared") >= len(flux_ha.addresses)


def test_what_somebody_left_behind_is_told(flux_ha: LabSystem, left_behind: str, key: Path) -> None:
    # A login past everything that this repository does.
    known = flux_ha.state / "lab" / flux_ha.inventory.name / "known_hosts"
    command = ["ssh", "-i", key, "-o", f"UserKnownHostsFile={known}", "-o", "IdentitiesOnly=yes"]
    address = flux_ha.addresses[left_behind]
    subprocess.run([*command, f"eve@{address}", "sudo", "true"], check=True, capture_output=True)
    play = flux_ha.playbook("security_access_audit", {"target": left_behind})
    assert play.code != 0
    said = " ".join(play.output.split())
    for words in (
        "account: eve is not declared",
        "key: eve has key SHA256:",
        "sudo: eve may use sudo, which is not declared",
        "sudo: eve used sudo 1 times, and is not declared to have it",
        "port: python3 listens on 4444/tcp, which is not declared",
        "eve logged in 1 times from",
    ):
        assert words in said, words
