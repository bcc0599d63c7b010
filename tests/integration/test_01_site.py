"""site.yml: preview on bare hosts, converge, a second run that changes nothing, reboot, verify."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from system import FIRST_CONVERGE, LabSystem

# What a host writes by itself while nobody changes it: logs, the login's own traces, and the index that apt
# builds from its package lists whenever somebody asks it anything.
OWN_WRITES = (
    "/var/log/",
    "/var/cache/apt/pkgcache.bin",
    "/var/cache/apt/srcpkgcache.bin",
    "/var/lib/systemd/",
    "/var/lib/dbus/",
    "/home/ops/.ansible",
    "/root/.ansible",
    "/etc/.pwd.lock",
)


def files_written_since(flux: LabSystem, host: str, moment: float) -> list[str]:
    """Files on a host's disk whose content or attributes changed since a moment (seconds since the epoch)."""
    listing = flux.on_host(
        host, "find", "/", "-xdev", "-newerct", f"@{moment:.0f}", "(", "-type", "f", "-o", "-type", "l", ")"
    ).stdout.splitlines()
    return [path for path in listing if not path.startswith(OWN_WRITES)]


def test_check_mode_on_bare_hosts_changes_nothing(flux: LabSystem) -> None:
    started = time.time()
    time.sleep(1)
    play = flux.playbook("site", None, "--check", "--diff")
    assert play.code == 0, play.output[-5000:]
    assert "DEPRECATION" not in play.output
    written = {host: files_written_since(flux, host, started) for host in flux.addresses}
    assert written == {host: [] for host in flux.addresses}


def test_converge(flux: LabSystem) -> None:
    # Told as much as can be told, for test_05: every file that carries a secret is new now.
    play = flux.playbook("site", None, "--diff", "-vvv")
    (flux.state / FIRST_CONVERGE).write_text(play.output)
    assert play.code == 0, play.output[-8000:]
    assert "[WARNING]" not in play.output, play.output
    assert "DEPRECATION" not in play.output


def test_second_converge_changes_nothing(flux: LabSystem) -> None:
    play = flux.playbook("site")
    assert play.code == 0, play.output[-5000:]
    assert play.changed == {}, play.output


def test_everything_verifies_after_a_reboot_of_every_host(flux: LabSystem) -> None:
    def started_at(host: str) -> str:
        return flux.on_host(host, "stat", "-c", "%Y", "/proc/1").stdout

    before = {host: started_at(host) for host in flux.addresses}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: flux.on_host(host, "systemctl", "reboot", check=False), flux.addresses))

    def back(host: str) -> bool:
        answer = flux.on_host(host, "systemctl", "is-system-running", check=False).stdout.strip()
        return answer in {"running", "degraded"} and started_at(host) != before[host]

    flux.wait("every host back", lambda: all(back(host) for host in flux.addresses), timeout_s=120)
    deadline = time.monotonic() + 90
    play = flux.playbook("check_health")
    while play.code != 0 and time.monotonic() < deadline:
        time.sleep(5)
        play = flux.playbook("check_health")
    assert play.code == 0, play.output[-5000:]


@pytest.mark.parametrize("station", ["wlce", "hmce", "lfce"])
def test_the_controller_is_well_confined(flux: LabSystem, station: str) -> None:
    report = flux.on_host(
        station, "systemd-analyze", "security", "--no-pager", "bess_controller.service", check=False
    ).stdout
    exposure = float(report.rsplit("bess_controller.service:", 1)[1].split()[0])
    assert exposure < 2.5, report
