"""What a computer must have to run a lab, and what to do where it has not."""

import os
import shutil
from pathlib import Path

from labkit.errors import LabError

PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "mkfs.ext4": "e2fsprogs",
    "nsenter": "util-linux",
    "tar": "tar",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-trixie-stable.gpg")
RELEASES = ("12", "13")
BASE_MB = 2000
HOST_MB = 500


def system_problem(os_release: str) -> str | None:
    """Say what is wrong with the operating system, from the text of /etc/os-release."""
    fields = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    identity = fields.get("ID", "").strip('"')
    version = fields.get("VERSION_ID", "").strip('"')
    if identity == "debian" and version in RELEASES:
        return None
    name = fields.get("PRETTY_NAME", "an unknown system").strip('"')
    return f"the lab runs on Debian 12 or 13, and this is {name}"


def find_problems(hosts: int, cache: Path, disks: Path) -> list[str]:
    """List everything that is missing, each with its remedy."""
    problems: list[str] = []
    if os.geteuid() != 0:
        problems.append("labctl must run as root: run it again with sudo")
    if problem := system_problem(Path("/etc/os-release").read_text()):
        problems.append(problem)
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    packages = [package for program, package in PROGRAMS.items() if not shutil.which(program, path=path)]
    if not KEYRING.exists():
        packages.append("debian-archive-keyring")
    if packages:
        names = " ".join(dict.fromkeys(packages))
        problems.append(f"packages are missing: apt-get install --no-install-recommends {names}")
    if not Path("/sys/module/overlay").exists() and "overlay" not in Path("/proc/filesystems").read_text():
        problems.append("the kernel has no overlayfs: modprobe overlay")
    wanted_mb = BASE_MB + HOST_MB * hosts
    for place in {cache, disks}:
        free_mb = _free_mb(place)
        if free_mb < wanted_mb:
            problems.append(f"{place} has {free_mb} MB free, {wanted_mb} MB are wanted for {hosts} hosts")
    return problems


def _free_mb(place: Path) -> int:
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free // 1_000_000


def check(hosts: int, cache: Path, disks: Path) -> None:
    """Raise one `LabError` that names everything that is missing."""
    if problems := find_problems(hosts, cache, disks):
        raise LabError("the lab cannot run here:\n" + "\n".join(f"  - {problem}" for problem in problems))
