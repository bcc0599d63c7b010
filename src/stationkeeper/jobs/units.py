"""The systemd units of scheduled jobs on a hub: a service and a timer for each, and none for others.

Standard library only: Ansible ships this file to the hub.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import write_atomically

PREFIX = "stationkeeper-job-"
DIRECTORY = Path("/etc/systemd/system")
_TIMEOUT_S = 60

_SERVICE = """\
# Written by Ansible, role telemetry_jobs.
[Unit]
Description=Stationkeeper job {name}
After=network-online.target time-sync.target
Wants=network-online.target

[Service]
Type=oneshot
ExecStart={program} job run {name} --config {config}
# Somebody runs the job by hand at this moment: nothing failed.
SuccessExitStatus=3
# A run that was ended from outside cannot settle its own row.
ExecStopPost=/bin/sh -c 'test "$$SERVICE_RESULT" = success || exec {ended}'
TimeoutStartSec={limit_s}
TimeoutStopSec=60
User={user}
Group={user}
UMask=0027
# Jobs can wait; Redis, Prometheus and Alertmanager of this host cannot.
Nice=10
IOSchedulingClass=idle
OOMScoreAdjust=500

StateDirectory={user}
StateDirectoryMode=0750
ProtectSystem=strict
ReadWritePaths={writable}
ProtectHome=true
PrivateTmp=true
PrivateDevices=true
DevicePolicy=closed
ProtectProc=invisible
ProcSubset=pid
ProtectClock=true
ProtectHostname=true
ProtectKernelTunables=true
ProtectKernelModules=true
ProtectKernelLogs=true
ProtectControlGroups=true
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=true
RestrictRealtime=true
RestrictSUIDSGID=true
RemoveIPC=true
KeyringMode=private
LockPersonality=true
MemoryDenyWriteExecute=true
NoNewPrivileges=true
CapabilityBoundingSet=
AmbientCapabilities=
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
"""
_TIMER = """\
# Written by Ansible, role telemetry_jobs.
[Unit]
Description=Stationkeeper job {name}

[Timer]
OnCalendar={calendar}
# A hub that was off at the time makes up for it.
Persistent=true
# A delay of its own for each host and timer, the same every time: hubs do not all ask the database at once.
RandomizedDelaySec=10
FixedRandomDelay=true
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


class UnitsError(Exception):
    """systemd refused; the message says what."""


@dataclass(frozen=True)
class Job:
    """A declared job: when it runs (OnCalendar, in UTC), and after how many seconds it is ended."""

    name: str
    calendar: str
    limit_s: int


@dataclass(frozen=True)
class Layout:
    """Where the program and its configuration are, whose it is, and the directories that it may write."""

    program: str
    config: str
    user: str
    writable: Sequence[str]


@dataclass(frozen=True)
class Changes:
    """Files before and after (empty text: not there), and timers that get started."""

    files: Mapping[str, tuple[str, str]]
    started: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether anything is different."""
        return bool(self.files or self.started)


def texts(jobs: Sequence[Job], layout: Layout) -> dict[str, str]:
    """Return the units' texts by file name. Pure."""
    files = {}
    for job in jobs:
        fields = {
            **vars(job),
            **vars(layout),
            "writable": " ".join(f"-{path}" for path in layout.writable),
            "ended": f"{layout.program} job ended {job.name} --config {layout.config}",
        }
        files[f"{PREFIX}{job.name}.service"] = _SERVICE.format(**fields)
        files[f"{PREFIX}{job.name}.timer"] = _TIMER.format(**fields)
    return files


def converge(jobs: Sequence[Job], layout: Layout, *, dry_run: bool, directory: Path = DIRECTORY) -> Changes:
    """Make the units of jobs on this host what is declared, and start the timers. Raises UnitsError, OSError.

    The unit of a job that is not declared any more is disabled and removed; a run of it may end.
    """
    wanted = texts(jobs, layout)
    present = {path.name: path.read_text(encoding="utf-8") for path in directory.glob(f"{PREFIX}*.*")}
    files = {
        name: (present.get(name, ""), wanted.get(name, ""))
        for name in sorted({*wanted, *present})
        if present.get(name) != wanted.get(name)
    }
    timers = [name for name in wanted if name.endswith(".timer")]
    enabled = {path.name for path in (directory / "timers.target.wants").glob(f"{PREFIX}*.timer")}
    running = _active(timers)
    waiting = tuple(name for name in timers if name not in enabled or name not in running)
    # A timer takes up another calendar when it is started again.
    again = tuple(name for name in timers if name in files and name not in waiting)
    if dry_run:
        return Changes(files, waiting)
    gone = sorted(name for name in present if name not in wanted)
    if gone_timers := [name for name in gone if name.endswith(".timer")]:
        _systemctl("disable", "--now", *gone_timers)
    for name, (_, after) in files.items():
        if after:
            write_atomically(directory / name, after, mode=0o644)
        else:
            (directory / name).unlink()
    if files:
        _systemctl("daemon-reload")
    if waiting:
        _systemctl("enable", "--now", *waiting)
    if again:
        _systemctl("restart", *again)
    return Changes(files, waiting)


def _active(timers: Sequence[str]) -> set[str]:
    done = subprocess.run(
        ["systemctl", "is-active", *timers], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    # One line for each, in their order; the exit code only says that one of them is not.
    return {name for name, state in zip(timers, done.stdout.split(), strict=False) if state == "active"}


def _systemctl(*arguments: str) -> None:
    done = subprocess.run(
        ["systemctl", *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise UnitsError(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")
