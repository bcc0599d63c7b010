"""Keep a unit running from the release in force.

What has to be done is read from the system, not remembered from earlier steps: a run that was interrupted
after it installed a release or a unit file leaves nothing undone.
Standard library only: it runs on the station.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/opt/stationkeeper")
_PROPERTIES = (
    "LoadState,ActiveState,UnitFileState,NeedDaemonReload,NRestarts,MainPID,ActiveEnterTimestampMonotonic"
)
Runner = Callable[[Sequence[str]], "tuple[int, str]"]


class ServiceError(Exception):
    """systemd did not do what it was asked; the message holds its words."""


@dataclass(frozen=True)
class Service:
    """A unit as systemd sees it, and the releases that its process runs from and that is installed.

    ``age_s`` is how long it has been active, in seconds; ``pid`` its main process, 0 when there is none.
    """

    loaded: bool
    active: str
    enabled: bool
    stale_unit_file: bool
    restarts: int
    release: str
    installed: str
    age_s: float = 0.0
    pid: int = 0


def ask(command: Sequence[str]) -> tuple[int, str]:
    """Run a command; returns its exit code (127 when it cannot be run) and its output."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, (done.stdout or done.stderr).strip()


def look(name: str, root: Path = ROOT, run: Runner = ask) -> Service:
    """Ask systemd for a unit, and the kernel for the program that it runs."""
    _, answer = run(["systemctl", "show", name, f"--property={_PROPERTIES}"])
    values = dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)
    restarts = values.get("NRestarts", "")
    installed = (root / "venv").resolve()
    pid = values.get("MainPID", "0")
    return Service(
        values.get("LoadState") == "loaded",
        values.get("ActiveState") or "unknown",
        values.get("UnitFileState") == "enabled",
        values.get("NeedDaemonReload") == "yes",
        int(restarts) if restarts.isdigit() else 0,
        _release_of(pid, root),
        installed.name if installed.parent == root / "releases" else "",
        _age_s(values.get("ActiveEnterTimestampMonotonic", "")),
        int(pid) if pid.isdigit() else 0,
    )


def _age_s(since_us: str) -> float:
    # systemd and this process read the same clock, which counts from the boot.
    entered = int(since_us) / 1e6 if since_us.isdigit() else 0.0
    return round(time.monotonic() - entered, 1) if entered else 0.0


def _release_of(pid: str, root: Path) -> str:
    try:
        program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""
    # The entry point's interpreter is the release's own, by its real path.
    prefix = f"{root}/releases/"
    return program.removeprefix(prefix).split("/")[0] if program.startswith(prefix) else ""


def plan(seen: Service) -> list[str]:
    """Return the systemctl verbs that are needed, in order."""
    verbs = []
    if seen.stale_unit_file or not seen.loaded:
        verbs.append("daemon-reload")
    if not seen.enabled:
        verbs.append("enable")
    if seen.active not in ("active", "reloading"):
        verbs.append("start")
    elif seen.stale_unit_file or seen.release != seen.installed:
        verbs.append("restart")
    return verbs


def ensure(
    name: str, root: Path = ROOT, *, dry_run: bool = False, run: Runner = ask
) -> tuple[list[str], Service]:
    """Bring the unit into the state that `plan` asks for; returns the verbs used and the unit afterwards.

    Raises ServiceError when systemd refuses.
    """
    verbs = plan(look(name, root, run))
    if not dry_run:
        for verb in verbs:
            command = ["systemctl", verb] if verb == "daemon-reload" else ["systemctl", verb, name]
            code, text = run(command)
            if code != 0:
                raise ServiceError(f"{' '.join(command)}: {text}")
    return verbs, look(name, root, run)
