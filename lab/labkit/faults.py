"""Faults that heal themselves: network cut, power cut, freeze and full disk.

Each fault is noted in a file with the time of its end. A cut is ended by the kernel, a power cut by the
machine's supervisor, the others by a detached healer process; `up`, `status` and `down` end what is overdue,
whoever died.
"""

import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from labkit import cgroups, clone, disk_fill, machine, network, paths
from labkit.errors import LabError
from labkit.inventory import Host, Lab
from labkit.naming import machine_name, port_name
from labkit.record import living_process, note_process, read_json, write_json

KINDS = ("cut", "power-cut", "freeze", "fill-disk")
LONGEST_S = 86_400
#: A machine without power is dark within this time, in seconds.
DARK_S = 30


@dataclass(frozen=True)
class Fault:
    """A fault in force; times are UNIX seconds."""

    kind: str
    lab: str
    host: str
    started: float
    until: float
    peer: str | None = None
    control: bool = False
    path: str | None = None

    @property
    def identity(self) -> str:
        """Name of its file: the same fault again replaces the one before."""
        return "-".join([self.kind, self.host, *([self.peer] if self.peer else [])])

    @property
    def file(self) -> Path:
        """Where it is noted."""
        return folder(self.lab) / f"{self.identity}.json"

    @property
    def healer_file(self) -> Path:
        """Names the process that ends it, where there is one."""
        return self.file.with_suffix(".healer")

    def is_over(self, now: float) -> bool:
        """True when its time has passed."""
        return now >= self.until

    def describe(self) -> str:
        """One phrase for people, with the end in UTC."""
        end = time.strftime("%H:%M:%SZ", time.gmtime(self.until))
        if self.kind == "cut":
            whom = self.peer or "all other hosts"
            also = " and the control node" if self.control else ""
            return f"{self.host} cut from {whom}{also} until {end}"
        words = {"power-cut": "without power", "freeze": "frozen", "fill-disk": f"disk full at {self.path}"}
        return f"{self.host} {words[self.kind]} until {end}"


def folder(lab: str) -> Path:
    """Folder with the faults in force."""
    return paths.run_directory(lab) / "faults"


def check_seconds(seconds: int) -> int:
    """Return a duration that is allowed, else raise `LabError`."""
    if not 1 <= seconds <= LONGEST_S:
        raise LabError(f"a fault lasts 1 to {LONGEST_S} seconds, not {seconds}")
    return seconds


def load_all(lab: str) -> list[Fault]:
    """All faults that are noted for a lab."""
    found = (read_json(file) for file in sorted(folder(lab).glob("*.json")))
    return [Fault(**content) for content in found if isinstance(content, dict)]


def _note(fault: Fault, healer: bool) -> None:
    write_json(fault.file, asdict(fault))
    _end_healer(fault)
    if healer:
        log = folder(fault.lab) / "healer.log"
        pid = machine.spawn_detached(log, "labkit.healer", fault.lab, json.dumps(asdict(fault)))
        note_process(fault.healer_file, pid)


def _end_healer(fault: Fault) -> None:
    """End the process that waits to end a fault (unless it is the one that runs this)."""
    pid = living_process(fault.healer_file)
    if pid is not None and pid != os.getpid():
        os.kill(pid, signal.SIGTERM)
    fault.healer_file.unlink(missing_ok=True)


def _running(lab: Lab, host: Host) -> tuple[cgroups.Trees, int]:
    trees = cgroups.detect()
    leader = cgroups.leader(trees, host.machine)
    if leader is None:
        raise LabError(f"{host.name} is not running; see labctl status {lab.name}")
    return trees, leader


def cut(lab: Lab, host: Host, seconds: int, peer: Host | None, control: bool) -> Fault:
    """Cut a host from all others (or one), and from the control node too on demand."""
    _running(lab, host)
    now = time.time()
    until = now + check_seconds(seconds)
    fault = Fault("cut", lab.name, host.name, now, until, peer.name if peer else None, control)
    for before in load_all(lab.name):
        if before.identity == fault.identity:
            network.remove_cut(lab.name, _elements(before))
    network.add_cut(lab.name, _elements(fault), seconds)
    _note(fault, healer=False)
    return fault


def _elements(fault: Fault) -> list[tuple[str, str]]:
    port = port_name(machine_name(fault.lab, fault.host))
    peer = port_name(machine_name(fault.lab, fault.peer)) if fault.peer else None
    return network.cut_elements(port, peer, fault.control)


def power_cut(lab: Lab, host: Host, seconds: int) -> Fault:
    """Take the power from a host: nothing in it gets to run again; it boots by itself after the time."""
    trees, leader = _running(lab, host)
    now = time.time()
    fault = Fault("power-cut", lab.name, host.name, now, now + check_seconds(seconds))
    kept = machine.of_host(lab.name, host)
    if machine.supervisor(kept) is None:
        raise LabError(f"nobody looks after {host.name}: run labctl up first")
    write_json(kept.power_file, {"at": fault.until})
    cgroups.kill_at_once(trees, host.machine)
    _note(fault, healer=False)
    # On a busy machine the kernel takes its time to end all that runs in it.
    deadline = time.monotonic() + DARK_S
    while cgroups.leader(trees, host.machine) == leader:
        if time.monotonic() > deadline:
            raise LabError(
                f"{host.name} still runs {DARK_S} s after its power was cut; see labctl status {lab.name}"
            )
        time.sleep(0.05)
    return fault


def freeze(lab: Lab, host: Host, seconds: int) -> Fault:
    """Stop all processes of a host where they stand: it is there, but does not answer."""
    trees, _ = _running(lab, host)
    now = time.time()
    fault = Fault("freeze", lab.name, host.name, now, now + check_seconds(seconds))
    # Noted with its healer first: a frozen host that nobody remembers would stay frozen.
    _note(fault, healer=True)
    cgroups.freeze(trees, host.machine, True)
    return fault


def fill_disk(lab: Lab, host: Host, seconds: int, path: str) -> Fault:
    """Fill the disk of a host that has a disk of its own size, until nothing more fits."""
    _, leader = _running(lab, host)
    if host.disk_mb is None:
        raise LabError(
            f"{host.name} has no disk of its own: set lab_disk_mb in hosts.yml and start it with --fresh"
        )
    now = time.time()
    root = clone.disk(lab.name, host.name).root
    disk_fill.check_place(root, path, Path(f"/proc/{leader}/mountinfo").read_text())
    fault = Fault("fill-disk", lab.name, host.name, now, now + check_seconds(seconds), path=path)
    _note(fault, healer=True)
    disk_fill.fill(root, path)
    return fault


def heal(fault: Fault, trees: cgroups.Trees) -> None:
    """End a fault; one that has ended by itself is no error."""
    name = machine_name(fault.lab, fault.host)
    if fault.kind == "cut":
        network.remove_cut(fault.lab, _elements(fault))
    elif fault.kind == "freeze":
        cgroups.freeze(trees, name, False)
    elif fault.kind == "fill-disk" and fault.path is not None:
        disk_fill.release(clone.disk(fault.lab, fault.host).root, fault.path)
    elif fault.kind == "power-cut":
        _give_power(fault, trees, name)
    _end_healer(fault)
    fault.file.unlink(missing_ok=True)


def _give_power(fault: Fault, trees: cgroups.Trees, name: str) -> None:
    kept = machine.load(fault.lab, fault.host)
    keeper = machine.supervisor(kept)
    if keeper is not None:
        if kept.power_file.exists():
            write_json(kept.power_file, {"at": 0})
            # Any child signal wakes the supervisor; it then reads the time again.
            os.kill(keeper, signal.SIGCHLD)
    elif clone.is_mounted(clone.disk(fault.lab, fault.host).root):
        machine.clear(trees, name)
        machine.start(kept)


def heal_overdue(lab: str, trees: cgroups.Trees) -> None:
    """End the faults whose time has passed."""
    now = time.time()
    for fault in load_all(lab):
        if fault.is_over(now):
            heal(fault, trees)


def heal_all(lab: str, trees: cgroups.Trees, host: str | None = None) -> list[Fault]:
    """End all faults of a lab, or of one host, at once; return them."""
    ended = [fault for fault in load_all(lab) if host in (None, fault.host)]
    for fault in ended:
        heal(fault, trees)
    return ended
