"""Control groups of the machines, on version 1 (also with a version 2 tree beside it) and on pure version 2.

Every machine gets a group of its own in every tree, entered before systemd-nspawn starts: with `--keep-unit`
it puts its payload below its own group, and two machines in one would kill each other's services.
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from labkit.errors import LabError

PARENT = "sk-lab"
# A new cpuset group takes no process before its CPUs and memory nodes are set; nothing here needs it.
UNUSED = {"cpuset"}


@dataclass(frozen=True)
class Trees:
    """Mount points by controller name; `systemd` and `unified` are trees without limits."""

    version: int
    mounts: tuple[tuple[str, str], ...]

    def path(self, controller: str, machine: str) -> Path | None:
        """Folder of a machine in the tree of a controller, or None without that controller."""
        if self.version == 2:
            return Path(self.mounts[0][1]) / PARENT / machine
        for name, mount in self.mounts:
            if controller in name.split(","):
                return Path(mount) / PARENT / machine
        return None

    def folders(self, machine: str) -> list[Path]:
        """Folders of a machine in all trees."""
        return [Path(mount) / PARENT / machine for _, mount in self.mounts]


def parse_mounts(text: str) -> Trees:
    """Find the trees in the text of /proc/self/mounts."""
    first: list[tuple[str, str]] = []
    second: list[tuple[str, str]] = []
    for line in text.splitlines():
        _, mount, kind = line.split()[:3]
        if not mount.startswith("/sys/fs/cgroup"):
            continue
        name = Path(mount).name
        if kind == "cgroup" and name not in UNUSED:
            first.append((name, mount))
        elif kind == "cgroup2":
            second.append(("unified", mount))
    if first:
        return Trees(1, tuple(first + second))
    if second:
        return Trees(2, tuple(second[:1]))
    raise LabError("no control groups are mounted under /sys/fs/cgroup")


def detect() -> Trees:
    """Find the trees of this computer."""
    return parse_mounts(Path("/proc/self/mounts").read_text())


def create(trees: Trees, machine: str, memory_mb: int | None) -> None:
    """Make the groups of a machine and set its memory limit (MiB)."""
    for folder in trees.folders(machine):
        folder.mkdir(parents=True, exist_ok=True)
    if trees.version == 2:
        parent = Path(trees.mounts[0][1])
        there = (parent / "cgroup.controllers").read_text().split()
        wanted = " ".join(f"+{name}" for name in ("cpu", "memory", "pids") if name in there)
        for folder in (parent, parent / PARENT):
            (folder / "cgroup.subtree_control").write_text(wanted)
    if memory_mb is not None:
        memory = trees.path("memory", machine)
        if memory is None:
            raise LabError("lab_memory_mb needs the memory controller, which this computer does not have")
        limit = memory / ("memory.max" if trees.version == 2 else "memory.limit_in_bytes")
        limit.write_text(str(memory_mb * 1024 * 1024))


def enter(trees: Trees, machine: str) -> None:
    """Move the calling process into the groups of a machine."""
    for folder in trees.folders(machine):
        (folder / "cgroup.procs").write_text(str(os.getpid()))


def processes(trees: Trees, machine: str) -> set[int]:
    """All processes of a machine, seen from outside."""
    found: set[int] = set()
    # A process stays below the machine's group in each tree, so one tree is enough.
    root = trees.path("freezer", machine) or trees.folders(machine)[0]
    for file in root.rglob("cgroup.procs"):
        try:
            found.update(int(line) for line in file.read_text().split())
        except (FileNotFoundError, OSError):
            continue
    return found


def leader(trees: Trees, machine: str) -> int | None:
    """Process that is number 1 inside the machine, or None when there is none."""
    for pid in sorted(processes(trees, machine)):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if namespace_pids(status)[1:] == [1]:
            return pid
    return None


def namespace_pids(status: str) -> list[int]:
    """Numbers of a process in its nested namespaces, outermost first, from /proc/PID/status."""
    for line in status.splitlines():
        if line.startswith("NSpid:"):
            return [int(word) for word in line.split()[1:]]
    return []


def freeze(trees: Trees, machine: str, frozen: bool) -> None:
    """Stop all processes of a machine where they stand, or let them go on."""
    folder = trees.path("freezer", machine)
    if folder is None or not folder.is_dir():
        if frozen:
            raise LabError(f"{machine} has no freezer control group: is it running?")
        return
    if trees.version == 2:
        (folder / "cgroup.freeze").write_text("1" if frozen else "0")
    else:
        (folder / "freezer.state").write_text("FROZEN" if frozen else "THAWED")


def memory_bytes(trees: Trees, machine: str) -> int | None:
    """Memory that a machine uses, with its page cache."""
    folder = trees.path("memory", machine)
    name = "memory.current" if trees.version == 2 else "memory.usage_in_bytes"
    try:
        return int((folder / name).read_text()) if folder else None
    except (FileNotFoundError, OSError):
        return None


def kill_all(trees: Trees, machine: str, timeout_s: float = 10.0) -> None:
    """Kill every process of a machine and wait until they are gone."""
    freeze(trees, machine, False)
    deadline = time.monotonic() + timeout_s
    while pids := processes(trees, machine):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise LabError(f"processes of {machine} do not end: {sorted(pids)}")
        time.sleep(0.05)


def kill_at_once(trees: Trees, machine: str) -> None:
    """Kill every process inside a machine at one moment; systemd-nspawn itself stays and ends by itself.

    Killed one by one, or by their number 1, some would live on for a moment and see the others gone.
    """
    freeze(trees, machine, True)
    try:
        for pid in processes(trees, machine):
            try:
                if len(namespace_pids(Path(f"/proc/{pid}/status").read_text())) > 1:
                    os.kill(pid, signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                continue
    finally:
        freeze(trees, machine, False)


def remove(trees: Trees, machine: str) -> None:
    """Remove the empty groups of a machine."""
    for folder in trees.folders(machine):
        if not folder.is_dir():
            continue
        for current, _, _ in os.walk(folder, topdown=False):
            try:
                Path(current).rmdir()
            except OSError:
                continue


def remove_parents(trees: Trees) -> None:
    """Remove the groups above the machines once no machine is left."""
    for _, mount in trees.mounts:
        folder = Path(mount) / PARENT
        if folder.is_dir() and not any(child.is_dir() for child in folder.iterdir()):
            folder.rmdir()


def machines(trees: Trees, prefix: str) -> set[str]:
    """Machines that have a group, by the prefix of their names."""
    found: set[str] = set()
    for _, mount in trees.mounts:
        parent = Path(mount) / PARENT
        if parent.is_dir():
            found.update(f.name for f in parent.iterdir() if f.is_dir() and f.name.startswith(prefix))
    return found
