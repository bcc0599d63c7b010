"""kill -9 of runbooks at their steps, each followed by a run to its end.

    python bench/kill_runbooks.py --inventory inventories/flux-ha backup_run:target=fluxbackup,type=diff
    python bench/kill_runbooks.py --inventory inventories/flux-ha --kills 8 database_switchover

Each runbook is run to its end once, which tells how many tasks it has. Then it is killed when one of them
begins, evenly spread over all, and run again: that run has to take over the lock and reach the same good end,
and the audit trail has to call the killed one aborted. Fails with the first thing that is not so. The system
is up already: `make drills` leaves one. For each run of database_failover the primary's machine loses its
power, and database_rejoin brings it back; for each of database_rejoin a failover comes before.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

from killed import aborted, moments, run_and_kill, tasks
from system import ROOT, LabSystem

#: Longer than a killed run and the next one take; the machine is started as soon as both are over.
WITHOUT_POWER_S = 600


def main() -> None:
    """Kill and run again, and print one line for each kill."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runbooks", nargs="+", help="name, or name:input=value,input=value")
    parser.add_argument("--inventory", type=Path, default=ROOT / "inventories" / "flux-ha")
    parser.add_argument("--kills", type=int, default=10, help="kills of each runbook")
    parsed = parser.parse_args()
    system = LabSystem(
        parsed.inventory.resolve(), Path(os.environ.get("STATIONKEEPER_STATE", ROOT / ".state"))
    )
    for runbook in parsed.runbooks:
        name, _, given = runbook.partition(":")
        inputs = dict(entry.split("=", 1) for entry in given.split(",") if entry)
        _kill_and_repeat(system, name, {"reason": "bench/kill_runbooks.py", **inputs}, parsed.kills)


@contextmanager
def _fault(system: LabSystem, name: str) -> Iterator[dict[str, str]]:
    """What a runbook is there for, and the inputs that this adds; afterwards all is as before."""
    if name == "database_failover":
        old = _without_power(system)
        yield {"fencing_confirmed": old}
        _with_power(system, old)
        _must(system, "database_rejoin", {"target": old, "confirm": old})
    elif name == "database_rejoin":
        old = _without_power(system)
        fenced = {"target": "databases", "confirm": "databases", "fencing_confirmed": old}
        _must(system, "database_failover", fenced)
        _with_power(system, old)
        yield {"target": old, "confirm": old}
    else:
        yield {}


def _without_power(system: LabSystem) -> str:
    """Take the power of the primary's machine, and return its name."""
    old = system.primary()
    system.labctl("power-cut", old, "--for", str(WITHOUT_POWER_S))
    return old


def _with_power(system: LabSystem, host: str) -> None:
    """Start a machine and wait until it takes logins."""
    system.labctl("heal", host)
    ssh = ("systemctl", "is-active", "ssh")
    system.wait(f"{host} boots", lambda: system.on_host(host, *ssh, check=False).returncode == 0, 120)


def _must(system: LabSystem, name: str, inputs: dict[str, str]) -> None:
    done = system.playbook(name, {"reason": "bench/kill_runbooks.py", **inputs})
    if done.code != 0:
        sys.exit(f"{name} fails:\n{done.output[-3000:]}")


def _kill_and_repeat(system: LabSystem, name: str, inputs: dict[str, str], kills: int) -> None:
    with _fault(system, name) as more:
        first = system.playbook(name, inputs | more)
    if first.code != 0:
        sys.exit(f"{name} fails by itself:\n{first.output[-3000:]}")
    count = tasks(first)
    print(f"{name}: {count} tasks, {first.seconds:.0f} s", flush=True)
    for at in moments(count, kills):
        before = aborted(system)
        with _fault(system, name) as more:
            killed = run_and_kill(system, name, inputs | more, at)
            again = system.playbook(name, inputs | more)
        if killed is None:
            print(f"  task {at}: not reached, the run had less to do", flush=True)
            continue
        if again.code != 0:
            sys.exit(f"killed at task {at} ({killed.task}), it fails afterwards:\n{again.output[-3000:]}")
        # Killed before its START was written, a run has done nothing that could be told.
        told = aborted(system) - before
        print(
            f"  task {at:3} {killed.task:<60} again: ok, {again.seconds:.0f} s; aborted: {told}", flush=True
        )


if __name__ == "__main__":
    main()
