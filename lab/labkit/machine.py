"""Start, stop and look at one machine."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from labkit import cgroups, network, paths
from labkit.clone import disk
from labkit.errors import LabError
from labkit.inventory import Host
from labkit.naming import bridge_name
from labkit.record import living_process, note_process, read_json, write_json

REBOOT_STATUS = 133
STOP_WAIT_S = 25.0


@dataclass(frozen=True)
class Machine:
    """What a supervisor needs to know to run a machine."""

    lab: str
    host: str
    machine: str
    bridge: str
    root: str
    log: str
    memory_mb: int | None

    @property
    def folder(self) -> Path:
        """Where the running machine's files are."""
        return paths.run_directory(self.lab) / self.host

    @property
    def supervisor_file(self) -> Path:
        """Names the supervisor's process."""
        return self.folder / "supervisor.json"

    @property
    def power_file(self) -> Path:
        """While it exists, the time (UNIX seconds) at which power comes back."""
        return self.folder / "power_back.json"


def of_host(lab: str, host: Host) -> Machine:
    """The machine of a host."""
    place = disk(lab, host.name)
    return Machine(
        lab=lab,
        host=host.name,
        machine=host.machine,
        bridge=bridge_name(lab),
        root=str(place.root),
        log=str(place.log),
        memory_mb=host.memory_mb,
    )


def load(lab: str, host: str) -> Machine:
    """The machine that was started for a host; `LabError` when none was."""
    content = read_json(paths.run_directory(lab) / host / "machine.json")
    if not isinstance(content, dict):
        raise LabError(f"{host} of lab {lab} was never started; run labctl up")
    return Machine(**content)


def nspawn_command(machine: Machine) -> list[str]:
    """Command line of a machine."""
    return [
        "systemd-nspawn",
        "--quiet",
        f"--directory={machine.root}",
        f"--machine={machine.machine}",
        f"--hostname={machine.host}",
        f"--network-bridge={machine.bridge}",
        "--register=no",
        "--keep-unit",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--kill-signal=SIGRTMIN+3",
        "/usr/local/sbin/lab-init",
    ]


def start(machine: Machine) -> None:
    """Start the supervisor of a machine, detached from the caller; the disk must be mounted."""
    write_json(machine.folder / "machine.json", asdict(machine))
    machine.power_file.unlink(missing_ok=True)
    Path(machine.log).parent.mkdir(parents=True, exist_ok=True)
    pid = spawn_detached(Path(machine.log), "labkit.supervisor", machine.lab, machine.host)
    note_process(machine.supervisor_file, pid)


def spawn_detached(log: Path, module: str, *arguments: str) -> int:
    """Run a module of this package in a session of its own, so that it outlives the caller."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(paths.LAB_DIRECTORY)},
        )
    return process.pid


def supervisor(machine: Machine) -> int | None:
    """Process of the living supervisor, or None."""
    return living_process(machine.supervisor_file)


def is_running(trees: cgroups.Trees, machine: Machine) -> bool:
    """True when the machine has its process 1 and somebody who looks after it."""
    return supervisor(machine) is not None and cgroups.leader(trees, machine.machine) is not None


def note_ready(trees: cgroups.Trees, machine: Machine) -> None:
    """Remember that this boot of a machine answered ssh."""
    write_json(machine.folder / "ready.json", {"leader": cgroups.leader(trees, machine.machine)})


def was_ready(trees: cgroups.Trees, machine: Machine) -> bool:
    """True when this boot of a running machine was seen to answer ssh."""
    noted = read_json(machine.folder / "ready.json")
    return isinstance(noted, dict) and noted["leader"] == cgroups.leader(trees, machine.machine)


def stop(trees: cgroups.Trees, machine: Machine) -> None:
    """Shut a machine down cleanly, or kill it when it does not obey; remove what it leaves behind."""
    cgroups.freeze(trees, machine.machine, False)
    keeper = supervisor(machine)
    if keeper is not None:
        os.kill(keeper, signal.SIGTERM)
    elif (leader := cgroups.leader(trees, machine.machine)) is not None:
        os.kill(leader, signal.SIGRTMIN + 3)
    deadline = time.monotonic() + STOP_WAIT_S
    while time.monotonic() < deadline:
        if supervisor(machine) is None and not cgroups.processes(trees, machine.machine):
            break
        time.sleep(0.05)
    if (keeper := supervisor(machine)) is not None:
        os.kill(keeper, signal.SIGKILL)
    clear(trees, machine.machine)
    machine.supervisor_file.unlink(missing_ok=True)
    machine.power_file.unlink(missing_ok=True)


def clear(trees: cgroups.Trees, name: str) -> None:
    """Remove what a machine without a supervisor left: processes, groups, its network device."""
    cgroups.kill_all(trees, name)
    cgroups.remove(trees, name)
    network.remove_port(name)
    for leftover in (
        Path("/run/systemd/nspawn/propagate", name),
        Path("/run/systemd/nspawn/unix-export", name),
    ):
        if leftover.is_dir() and not any(leftover.iterdir()):
            leftover.rmdir()


def ssh_command(state: Path, address: str, *command: str) -> list[str]:
    """Command line that logs in as ops with the lab's key and strict host-key checking."""
    return [
        "ssh",
        "-F",
        "none",
        "-i",
        str(state / "id_ed25519"),
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        f'UserKnownHostsFile="{state / "known_hosts"}"',
        "-o",
        "GlobalKnownHostsFile=none",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=3",
        f"ops@{address}",
        *command,
    ]


def wait_for_ssh(machine: Machine, state: Path, address: str, timeout_s: float) -> str:
    """Wait until ops can log in and systemd has started everything; return systemd's state."""
    deadline = time.monotonic() + timeout_s
    words = ""
    command = ssh_command(state, address, "systemctl", "is-system-running", "--wait")
    while time.monotonic() < deadline:
        if supervisor(machine) is None:
            raise LabError(f"{machine.host} went down while booting; see {machine.log}")
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.stdout.strip():
            return done.stdout.strip()
        words = done.stderr.strip()
        time.sleep(0.3)
    raise LabError(f"{machine.host} ({address}) does not answer ssh after {timeout_s:.0f} s: {words}")
