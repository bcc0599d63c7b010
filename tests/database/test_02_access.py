"""The audit of access: silent on hosts as declared, and what somebody has left is told. Blocked addresses."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
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


@pytest.fixture
def attacker(flux_ha: LabSystem) -> Iterator[str]:
    """A second address of the control node, which no host knows."""
    network = flux_ha.addresses[flux_ha.hosts("backups")[0]].rpartition(".")[0]
    address, bridge = f"{network}.250", f"sk-{flux_ha.inventory.name}"
    subprocess.run(["ip", "address", "add", f"{address}/24", "dev", bridge], check=True)
    yield address
    subprocess.run(["ip", "address", "del", f"{address}/24", "dev", bridge], check=True)


def reaches(flux_ha: LabSystem, source: str, host: str) -> bool:
    url = f"http://{flux_ha.addresses[host]}:9100/metrics"
    command = ["curl", "-fsS", "--max-time", "3", "--interface", source, "-o", "/dev/null", url]
    return flux_ha.run(*command, check=False).returncode == 0


#: What hosts of each group serve, said once more.
SERVED = {
    "stations": {22, 502, 9100, 9105},
    "databases": {22, 5432, 9100, 9187},
    "hubs": {22, 6379, 9090, 9093, 9100, 9121},
    "backups": {22, 9100},
}


def open_ports(flux_ha: LabSystem, host: str, *options: str) -> set[int]:
    """Return the TCP ports of a host that nmap finds open."""
    command = ["nmap", "-n", "-Pn", "-p-", "-T4", "-oG", "-", *options, flux_ha.addresses[host]]
    return {int(port) for port in re.findall(r"(\d+)/open/tcp", flux_ha.run(*command).stdout)}


@pytest.fixture
def outside(flux_ha: LabSystem) -> Iterator[tuple[str, ...]]:
    """Options by which nmap comes from beyond the system's network."""
    address, bridge = "10.99.99.1", f"sk-{flux_ha.inventory.name}"
    subprocess.run(["ip", "address", "add", f"{address}/32", "dev", bridge], check=True)
    yield ("-S", address, "-e", bridge)
    subprocess.run(["ip", "address", "del", f"{address}/32", "dev", bridge], check=True)


def test_what_is_open_is_what_is_declared(flux_ha: LabSystem, outside: tuple[str, ...]) -> None:
    host = flux_ha.hosts("backups")[0]
    flux_ha.on_host(host, "systemd-run", "--unit=undeclared", "python3", "-m", "http.server", "4444")
    try:
        flux_ha.wait(
            "the server", lambda: "4444" in flux_ha.on_host(host, "ss", "-Hltn").stdout, timeout_s=20
        )
        for group, served in SERVED.items():
            assert open_ports(flux_ha, flux_ha.hosts(group)[0]) == served, group
            assert open_ports(flux_ha, flux_ha.hosts(group)[0], *outside) == set(), group
    finally:
        flux_ha.on_host(host, "systemctl", "stop", "undeclared")


def test_rules_that_lock_the_control_node_out_end_by_themselves(flux_ha: LabSystem) -> None:
    host = flux_ha.hosts("backups")[0]
    role = [
        "ansible",
        host,
        "-i",
        flux_ha.inventory,
        "-b",
        "-m",
        "ansible.builtin.include_role",
        "-a",
        "name=firewall",
    ]
    # Nobody whom the host knows would come in again: refused before anything is changed.
    nobody = {"firewall_sources": ["203.0.113.0/24"]}
    refused = flux_ha.run(*role, "-e", json.dumps(nobody), check=False)
    assert "nothing was changed: sessions of ssh come from" in refused.stdout
    assert passes(flux_ha, flux_ha.hosts("databases")[0], host)
    # Past that guard: the sshd that it asks about is not the one that is used.
    locked = {"firewall_ssh_port": 9100, "firewall_ports": [{"port": 9100}], "firewall_undo_s": 40}
    failed = flux_ha.run(*role, "-e", json.dumps(locked), check=False)
    assert "They end within 40 seconds" in " ".join((failed.stdout + failed.stderr).split())
    flux_ha.wait("the end", lambda: passes(flux_ha, flux_ha.hosts("databases")[0], host), timeout_s=60)
    mended = flux_ha.run(*role)
    assert "CHANGED" in mended.stdout
    assert open_ports(flux_ha, host) == SERVED["backups"]


def test_an_address_is_blocked_for_its_time(flux_ha: LabSystem, attacker: str) -> None:
    host = flux_ha.hosts("backups")[0]
    wish = {"target": host, "reason": "test", "addresses": [attacker]}
    assert reaches(flux_ha, attacker, host)
    preview = flux_ha.playbook("security_block_address", wish, "--check")
    assert preview.code == 0, preview.output[-5000:]
    assert f"{attacker}/32 until" in preview.output
    assert reaches(flux_ha, attacker, host)
    blocked = flux_ha.playbook("security_block_address", wish)
    assert blocked.code == 0, blocked.output[-5000:]
    assert not reaches(flux_ha, attacker, host)
    again = flux_ha.playbook("security_block_address", wish)
    assert (again.code, again.changed) == (0, {}), again.output[-5000:]
    # What boots has it, too.
    flux_ha.on_host(host, "nft", "delete", "table", "inet", "stationkeeper_blocked")
    assert reaches(flux_ha, attacker, host)
    flux_ha.on_host(host, "systemctl", "restart", "stationkeeper-rules@blocked.service")
    assert not reaches(flux_ha, attacker, host)
    lifted = flux_ha.playbook("security_block_address", {**wish, "lift": True})
    assert lifted.code == 0, lifted.output[-5000:]
    assert reaches(flux_ha, attacker, host)
    # One that nobody lifts ends by itself.
    short = flux_ha.playbook("security_block_address", {**wish, "hours": 75 / 3600})
    assert short.code == 0, short.output[-5000:]
    assert not reaches(flux_ha, attacker, host)
    flux_ha.wait("the end of the block", lambda: reaches(flux_ha, attacker, host), timeout_s=120)


def test_nobody_who_has_to_reach_the_system_is_blocked(flux_ha: LabSystem) -> None:
    host, other = flux_ha.hosts("backups")[0], flux_ha.hosts("databases")[0]
    for address in (flux_ha.addresses[other], flux_ha.addresses[other].rpartition(".")[0] + ".0/24"):
        wish = {"target": host, "reason": "test", "addresses": ["203.0.113.7", address]}
        refused = flux_ha.playbook("security_block_address", wish)
        assert refused.code != 0
        assert "has to reach this system: nothing was blocked" in refused.output
    assert "203.0.113.7" not in flux_ha.on_host(host, "nft", "list", "ruleset").stdout


def passes(flux_ha: LabSystem, source: str, host: str) -> bool:
    """Whether one host reaches the sshd of another."""
    script = f"exec 3<>/dev/tcp/{flux_ha.addresses[host]}/22"
    return flux_ha.on_host(source, "timeout", "3", "bash", "-c", script, check=False).returncode == 0


def test_an_isolated_host_is_reached_by_the_control_node_only(flux_ha: LabSystem) -> None:
    host, other = flux_ha.hosts("backups")[0], flux_ha.hosts("databases")[0]
    wish = {"target": host, "confirm": host, "reason": "test", "hours": 0.5}
    preview = flux_ha.playbook("security_isolate_host", wish, "--check")
    assert preview.code == 0, preview.output[-5000:]
    assert passes(flux_ha, other, host)
    isolated = flux_ha.playbook("security_isolate_host", wish)
    assert isolated.code == 0, isolated.output[-5000:]
    rules = flux_ha.on_host(host, "nft", "list", "table", "inet", "stationkeeper_isolated").stdout
    ends = datetime.fromisoformat(re.findall(r"until (\S+), run", rules)[0])
    assert ends > datetime.now(UTC) + timedelta(minutes=20)
    assert not passes(flux_ha, other, host)
    assert not passes(flux_ha, host, other)
    again = flux_ha.playbook("security_isolate_host", wish)
    assert (again.code, again.changed) == (0, {}), again.output[-5000:]
    lifted = flux_ha.playbook("security_isolate_host", {**wish, "lift": True})
    assert lifted.code == 0, lifted.output[-5000:]
    assert passes(flux_ha, other, host)
    assert passes(flux_ha, host, other)


def test_a_control_node_that_locks_itself_out_comes_back_by_itself(flux_ha: LabSystem, attacker: str) -> None:
    """The guard sees a session that would be let through, from an address that the control node loses."""
    host, control = flux_ha.hosts("backups")[0], attacker.rpartition(".")[0] + ".1"
    isolate = ["ansible", host, "-i", flux_ha.inventory, "-b", "-m", "host_isolate", "-a"]
    refused = flux_ha.run(*isolate, f"keep={attacker} seconds=30", check=False)
    assert "say the address that this host sees in `keep`" in refused.stdout
    assert flux_ha.run("ansible", host, "-i", flux_ha.inventory, "-m", "ping", check=False).returncode == 0
    lab = flux_ha.state / "lab" / flux_ha.inventory.name
    session = [
        "ssh",
        "-b",
        attacker,
        "-i",
        lab / "id_ed25519",
        "-o",
        f"UserKnownHostsFile={lab / 'known_hosts'}",
    ]
    account = f"ops@{flux_ha.addresses[host]}"
    with subprocess.Popen([*session, account, "sleep", "120"], stdout=subprocess.DEVNULL) as other:
        try:
            flux_ha.wait(
                "the other session",
                lambda: attacker in flux_ha.on_host(host, "ss", "-Htn", "state", "established").stdout,
                timeout_s=30,
            )
            # Its answer does not come through any more; ssh gives up, or hears it when the isolation is over.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(flux_ha.run, *isolate, f"keep={attacker} seconds=40", check=False)
                flux_ha.wait("the lock-out", lambda: not reaches(flux_ha, control, host), timeout_s=60)
                flux_ha.wait("its end", lambda: reaches(flux_ha, control, host), timeout_s=90)
        finally:
            other.kill()
    lifted = flux_ha.run(*isolate, "state=absent")
    assert "CHANGED" in lifted.stdout


def test_evidence_is_brought_home_without_secrets_and_sealed(flux_ha: LabSystem) -> None:
    host = flux_ha.hosts("databases")[0]
    known = flux_ha.secrets["secret_flux_operator_password"]
    flux_ha.on_host(host, "logger", f"somebody typed {known} here, and a word for test_02_access")
    preview = flux_ha.playbook("security_preserve_evidence", {"target": host}, "--check")
    assert preview.code == 0, preview.output[-5000:]
    assert "10 parts would be collected" in preview.output
    kept = flux_ha.playbook("security_preserve_evidence", {"target": host})
    assert kept.code == 0, kept.output[-5000:]
    folder = max((flux_ha.state / "evidence").glob("*-*"), key=lambda path: path.stat().st_mtime)
    texts = {path.name: gzip.decompress(path.read_bytes()).decode() for path in (folder / host).iterdir()}
    assert len(texts) == 10
    assert "and a word for test_02_access" in texts["journal.txt.gz"]
    assert [name for name, text in texts.items() if known in text] == []
    assert " /etc/passwd" in texts["file_hashes.txt.gz"]
    assert "sshd" in texts["processes.txt.gz"]
    assert flux_ha.on_host(host, "sh", "-c", "ls -d /var/tmp/stationkeeper-evidence-* || true").stdout == ""
    verify = ["stationkeeper", "audit", "verify", "--sealed", folder]
    assert "The seal is whole." in flux_ha.run(*verify).stdout
    (folder / host / "units.txt.gz").write_bytes(b"")
    changed = flux_ha.run(*verify, check=False)
    assert changed.returncode == 1
    assert f"{host}/units.txt.gz was changed" in changed.stdout
