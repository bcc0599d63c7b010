"""Identify a process on a control node so that another run can tell later whether it is gone."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

#: The first pid namespace of a Linux machine: not in a container.
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"


def describe_process(pid: int) -> dict[str, Any]:
    """User, node and process `pid` of this machine, as a lock records its owner."""
    return {
        "user": os.environ.get("SUDO_USER") or _user(),
        "node": socket.gethostname(),
        "machine": _read("/etc/machine-id"),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
        "pid": pid,
        "pid_started": _started(pid),
    }


def owner_state(
    owner: Mapping[str, Any], here: Mapping[str, Any] | None = None
) -> Literal["alive", "dead", "elsewhere"]:
    """Whether a lock's owner still runs, as far as this node can know.

    `elsewhere` means that this node cannot tell (another node or container), so only the lock's expiry
    helps. A container sees other pids than its host, hence the comparison of namespaces; and only a
    machine that is no container is believed to have restarted when its boot id differs.
    """
    here = describe_process(os.getpid()) if here is None else here
    same_machine = bool(here["machine"]) and all(
        owner.get(key) == here[key] for key in ("machine", "node", "namespace")
    )
    if not same_machine or not owner.get("pid"):
        return "elsewhere"
    if owner.get("boot") != here["boot"]:
        return "dead" if here["namespace"] == _INITIAL_PID_NAMESPACE else "elsewhere"
    started = _started(int(owner["pid"]))
    if started is None:
        return "dead"
    return "alive" if started == owner.get("pid_started") else "dead"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Clock ticks after boot at which `pid` started; None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command name may contain spaces and brackets: fields count from after the last one. A zombie
    # holds nothing any more.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])
