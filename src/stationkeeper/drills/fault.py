"""Faults on one host that heal themselves, also when the drill or the host dies.

Runs on the host, with the standard library and systemd only. Before anything breaks, a timer is armed whose
service heals the fault when its time has come; the service runs at a boot, too. Healing always brings back
what was there before the drill.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GUARD = "postgresql-guard.service"
UNITS = Path("/etc/systemd/system")
SPARE = 128 * 2**20
RECORDS = Path("/var/lib/stationkeeper/drills")


class FaultError(Exception):
    """A fault that cannot be injected or healed; the message names the fix."""


@dataclass(frozen=True)
class Fault:
    """One fault: the commands that inject it, and the shell lines that undo it however often they run."""

    name: str
    kind: str
    inject: tuple[tuple[str, ...], ...]
    heal: tuple[str, ...]
    told: str


def _service_crash(name: str, options: Mapping[str, Any]) -> Fault:
    unit = str(options["unit"])
    if _show(unit, "ActiveState") != "active":
        raise FaultError(f"{unit} is not active, so there is nothing to crash. Nothing was touched")
    return Fault(
        name,
        "service_crash",
        (("systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit),),
        (f"systemctl is-active --quiet {unit} || systemctl restart {unit}",),
        f"the main process of {unit} is killed",
    )


def _database_crash(name: str, options: Mapping[str, Any]) -> Fault:
    version, _, cluster = str(options["cluster"]).partition("/")
    if not version.isdigit() or not cluster.isalnum():
        raise FaultError(f"{options['cluster']!r} names no cluster; use 17/main")
    # The guard starts it only where no second primary can come of it.
    return Fault(
        name,
        "database_crash",
        (("pg_ctlcluster", version, cluster, "stop", "--mode", "immediate"),),
        (f"systemctl start {GUARD}",),
        f"PostgreSQL {version}/{cluster} is stopped as by a crash",
    )


def _files_away(name: str, options: Mapping[str, Any]) -> Fault:
    path = Path(str(options["path"]))
    if not path.is_absolute() or len(path.parts) < 3 or not path.exists():
        raise FaultError(f"{path} must be an existing file or directory, at least two levels below /")
    if path.is_mount():
        raise FaultError(f"{path} is a mount point and cannot be moved away; name what lies in it")
    kept = path.with_name(f"{path.name}.{name}")
    if kept.exists():
        raise FaultError(f"{kept} is left from another drill; look at it and move it away")
    partial = path.with_name(f"{path.name}.{name}-restored")
    there, away, half = (shlex.quote(str(each)) for each in (path, kept, partial))
    return Fault(
        name,
        "files_away",
        (("mv", "--no-target-directory", str(path), str(kept)),),
        (
            f"if [ -e {away} ]; then if [ -e {there} ]; then rm -rf {half}; mv -T {there} {half}; fi; "
            f"mv -T {away} {there}; fi",
        ),
        f"{path} is moved away",
    )


def _disk_full(name: str, options: Mapping[str, Any]) -> Fault:
    directory = Path(str(options["path"]))
    leave = int(options["leave_mb"]) * 2**20
    largest = int(options["largest_gb"]) * 2**30
    if not directory.is_dir():
        raise FaultError(f"{directory} is no directory")
    free = shutil.disk_usage(directory).free
    size = free - leave
    if size <= 0:
        raise FaultError(f"the disk of {directory} has {free // 2**20} MB left, which is full enough already")
    if size > largest:
        raise FaultError(
            f"the disk of {directory} has {free / 2**30:.0f} GB left; a drill fills at most "
            f"{largest / 2**30:.0f}. Raise largest_gb when a file of that size does no harm"
        )
    filler = shlex.quote(str(directory / f".{name}.filler"))
    # The file system needs some of what is free itself, so the rest is written until
    # nothing more goes in.
    commands = [f"fallocate --length {size if leave else max(size - SPARE, 1)} {filler}"]
    if not leave:
        commands.append(f"cat /dev/zero >> {filler} 2> /dev/null; sync {filler}; true")
    return Fault(
        name,
        "disk_full",
        tuple(("sh", "-c", command) for command in commands),
        (f"rm -f {filler}",),
        f"{size // 2**20} MB of {directory} are taken, {leave // 2**20} MB are left",
    )


def _network_split(name: str, options: Mapping[str, Any]) -> Fault:
    addresses = [str(ipaddress.ip_address(str(address))) for address in options["addresses"]]
    if not addresses:
        raise FaultError("a split needs at least one address to be cut off from")
    # A route that refuses: nothing goes out, so nothing is answered, and a reboot forgets it.
    return Fault(
        name,
        "network_split",
        tuple(("ip", "route", "replace", "prohibit", address) for address in addresses),
        tuple(f"ip route del prohibit {address} 2>/dev/null || true" for address in addresses),
        f"cut off from {', '.join(addresses)}",
    )


_MAKERS = {
    "service_crash": _service_crash,
    "database_crash": _database_crash,
    "files_away": _files_away,
    "disk_full": _disk_full,
    "network_split": _network_split,
}
KINDS = tuple(_MAKERS)


def plan(name: str, kind: str, options: Mapping[str, Any]) -> Fault:
    """Return what would be done. Looks at the host, changes nothing. Raises FaultError."""
    return _MAKERS[kind](name, options)


def service(fault: Fault) -> str:
    """Return the unit that heals."""
    # In a unit file, systemd takes % and $ for itself.
    script = "; ".join(fault.heal).replace("%", "%%").replace("$", "$$")
    return (
        f"[Unit]\nDescription=End of drill {fault.name}: {fault.kind}\n\n"
        f"[Service]\nType=oneshot\nExecStart=/bin/sh -c {json.dumps(script)}\n\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )


def timer(fault: Fault, heal_after_s: int) -> str:
    """Return the unit that starts it in time. It begins to count when it is started, and ends with a boot."""
    return (
        f"[Unit]\nDescription=End of drill {fault.name}\n\n"
        f"[Timer]\nOnActiveSec={heal_after_s}\nAccuracySec=1s\n"
    )


def unit(name: str) -> str:
    """Return the name of the healing unit, without its suffix."""
    return f"stationkeeper-{name}-heal"


def inject(fault: Fault, heal_after_s: int) -> None:
    """Arm the healing, then break. Raises FaultError; what was half done is healed first."""
    record = RECORDS / f"{fault.name}.json"
    if record.exists():
        raise FaultError(
            f"{fault.name} is under way on this host, or was left by a run that died; "
            f"`systemctl start {unit(fault.name)}` heals it, then remove {record}"
        )
    RECORDS.mkdir(parents=True, exist_ok=True)
    (UNITS / f"{unit(fault.name)}.service").write_text(service(fault))
    (UNITS / f"{unit(fault.name)}.timer").write_text(timer(fault, heal_after_s))
    record.write_text(json.dumps({"name": fault.name, "kind": fault.kind, "told": fault.told}) + "\n")
    try:
        _run("systemctl", "daemon-reload")
        # Enabled for the next boot, not started.
        _run("systemctl", "enable", f"{unit(fault.name)}.service")
        _run("systemctl", "start", f"{unit(fault.name)}.timer")
        for command in fault.inject:
            _run(*command)
    except FaultError:
        heal(fault.name)
        raise


def heal(name: str) -> bool:
    """Undo a fault and disarm its timer; False when there is none. Raises FaultError."""
    record = RECORDS / f"{name}.json"
    files = [UNITS / f"{unit(name)}.{kind}" for kind in ("service", "timer")]
    if not record.exists() and not any(path.exists() for path in files):
        return False
    if files[0].exists():
        _run("systemctl", "daemon-reload")
        _run("systemctl", "start", f"{unit(name)}.service")
        _run("systemctl", "stop", f"{unit(name)}.timer")
        _run("systemctl", "disable", f"{unit(name)}.service")
    for path in files:
        path.unlink(missing_ok=True)
    _run("systemctl", "daemon-reload")
    record.unlink(missing_ok=True)
    return True


def keep_restored(name: str, path: Path) -> None:
    """End `files_away` with what was restored in place: the copy moved away goes. Raises FaultError."""
    kept = path.with_name(f"{path.name}.{name}")
    if not path.exists():
        raise FaultError(f"{path} was not restored, so the copy in {kept} stays")
    # Out of the timer's sight in one step: half removed, it must never come back.
    done = kept.with_name(f"{kept.name}-done")
    if kept.exists():
        kept.rename(done)
    heal(name)
    if done.is_dir() and not done.is_symlink():
        shutil.rmtree(done)
    else:
        done.unlink(missing_ok=True)


def _show(unit_name: str, prop: str) -> str:
    return _run("systemctl", "show", "--property", prop, "--value", unit_name).strip()


def _run(*command: str) -> str:
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    if done.returncode != 0:
        raise FaultError(f"`{shlex.join(command)}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout
