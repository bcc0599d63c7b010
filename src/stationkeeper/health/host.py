"""What a host says of itself: disk space, clock, failed units, a pending reboot.

Runs on the host with nothing but its python3 (standard library only). Reads only.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

OK, DEGRADED, CRITICAL = "ok", "degraded", "critical"
_GIB = 1024**3


@dataclass(frozen=True)
class Check:
    """One question and its answer; ``state`` is ok, degraded or critical."""

    name: str
    state: str
    message: str

    def as_dict(self) -> dict[str, str]:
        """Return plain data for JSON and Ansible."""
        return asdict(self)


@dataclass(frozen=True)
class Limits:
    """From where on a value is no longer ok. Shares in percent of the file system, times in seconds."""

    free_degraded_percent: float = 15
    free_critical_percent: float = 5
    clock_degraded_s: float = 10
    clock_critical_s: float = 60


@dataclass(frozen=True)
class Space:
    """A file system's size and what is free for its users, in bytes and inodes (0: it has none)."""

    size: int
    free: int
    inodes: int
    inodes_free: int


Runner = Callable[[Sequence[str]], "tuple[int, str]"]


def run(command: Sequence[str]) -> tuple[int, str]:
    """Run a reading command; returns its exit code (127 when it cannot be run) and its output."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/bin"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, (done.stdout or done.stderr).strip()


def space_of(path: str) -> Space:
    """Measure the file system that holds ``path``. Raises OSError when it is not there."""
    found = os.statvfs(path)
    return Space(
        found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, found.f_files, found.f_favail
    )


def check_disk(path: str, space: Space, limits: Limits) -> Check:
    """Judge space and inodes of one file system; the scarcer one counts."""
    free = 100 * space.free / space.size if space.size else 0.0
    text = f"{path} has {free:.0f} % free ({space.free / _GIB:.1f} GiB)"
    if space.inodes:
        inodes = 100 * space.inodes_free / space.inodes
        if inodes < free:
            free, text = inodes, f"{path} has {inodes:.0f} % of its inodes free"
    state = CRITICAL if free < limits.free_critical_percent else OK
    if state == OK and free < limits.free_degraded_percent:
        state = DEGRADED
    return Check("disk", state, text)


def check_units(code: int, output: str) -> Check:
    """Judge the answer of ``systemctl list-units --state=failed``."""
    if code != 0:
        return Check("units", CRITICAL, f"systemd does not answer: {output}")
    failed = [line.split()[0] for line in output.splitlines() if line.split()]
    if failed:
        return Check("units", DEGRADED, f"failed: {', '.join(failed)}")
    return Check("units", OK, "no unit has failed")


def check_clock(offset_s: float, synchronised: bool | None, limits: Limits) -> Check:
    """Judge the distance to the control node's clock; ``synchronised`` is None in a container."""
    if abs(offset_s) > limits.clock_critical_s:
        return Check("clock", CRITICAL, f"{offset_s:+.0f} s away from the control node's clock")
    if abs(offset_s) > limits.clock_degraded_s:
        return Check("clock", DEGRADED, f"{offset_s:+.0f} s away from the control node's clock")
    if synchronised is False:
        return Check("clock", DEGRADED, "right, but not synchronised: it will drift")
    return Check("clock", OK, f"within {limits.clock_degraded_s:.0f} s of the control node's clock")


def check_host(paths: Sequence[str], reference_time: float, limits: Limits, ask: Runner = run) -> list[Check]:
    """Ask everything. ``reference_time`` is the control node's clock, in seconds since 1970 UTC."""
    offset = time.time() - reference_time
    checks = []
    for path in paths:
        try:
            checks.append(check_disk(path, space_of(path), limits))
        except OSError as error:
            checks.append(Check("disk", CRITICAL, f"{path} cannot be looked at: {error.strerror}"))
    listing = ["systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--no-pager"]
    checks.append(check_units(*ask(listing)))
    contained = ask(["systemd-detect-virt", "--container"])[0] == 0
    synchronised = None
    if not contained:
        synchronised = ask(["timedatectl", "show", "--property=NTPSynchronized", "--value"]) == (0, "yes")
    checks.append(check_clock(offset, synchronised, limits))
    if Path("/run/reboot-required").exists():
        checks.append(Check("reboot", DEGRADED, "an update or a setting waits for a reboot"))
    return checks
