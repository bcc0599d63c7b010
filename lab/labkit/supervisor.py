"""Keeps one machine running: boots it again after a reboot from inside or after a power cut.

A process of its own, started by `labctl up`, that ends when the machine is shut down. It sleeps in the kernel
until something happens, and it stays outside the machine's control groups so that a frozen machine does not
freeze it.
"""

import os
import signal
import subprocess
import sys
import time

from labkit import cgroups, machine
from labkit.record import note_process, read_json

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def next_step(status: int, stopping: bool, power_back: float | None) -> str:
    """What follows the end of a machine: `end`, `boot` (reboot from inside) or `wait` (power cut)."""
    if stopping:
        return "end"
    if power_back is not None:
        return "wait"
    return "boot" if status == machine.REBOOT_STATUS else "end"


def _log(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} supervisor: {text}", flush=True)


def _power_back(kept: machine.Machine) -> float | None:
    content = read_json(kept.power_file)
    return float(content["at"]) if isinstance(content, dict) else None


def _boot(trees: cgroups.Trees, kept: machine.Machine) -> subprocess.Popen[bytes]:
    cgroups.create(trees, kept.machine, kept.memory_mb)

    def enter() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        cgroups.enter(trees, kept.machine)

    return subprocess.Popen(
        machine.nspawn_command(kept),
        stdin=subprocess.DEVNULL,
        preexec_fn=enter,  # noqa: PLW1509 - the supervisor has one thread, so code before exec is safe
    )


def _wait_for_power(kept: machine.Machine) -> bool:
    """Sleep until power is back; False when the machine was told to stop instead."""
    while (at := _power_back(kept)) is not None and (rest := at - time.time()) > 0:
        caught = signal.sigtimedwait(SIGNALS, rest)
        if caught is not None and caught.si_signo != signal.SIGCHLD:
            return False
    kept.power_file.unlink(missing_ok=True)
    return True


def supervise(kept: machine.Machine) -> None:
    """Run a machine until it ends for good."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    trees = cgroups.detect()
    note_process(kept.supervisor_file, os.getpid())
    child = _boot(trees, kept)
    stopping = False
    while True:
        caught = signal.sigwait(SIGNALS)
        if caught != signal.SIGCHLD:
            stopping = True
            child.terminate()
            continue
        status = child.poll()
        if status is None:
            continue
        machine.clear(trees, kept.machine)
        step = next_step(status, stopping, _power_back(kept))
        _log(f"{kept.host} ended with status {status}: {step}")
        if step == "wait":
            step = "boot" if _wait_for_power(kept) else "end"
        if step == "end":
            break
        child = _boot(trees, kept)
    kept.supervisor_file.unlink(missing_ok=True)


if __name__ == "__main__":
    supervise(machine.load(sys.argv[1], sys.argv[2]))
