"""Say how a lab stands, and run commands in its hosts."""

import json
import os
import signal
import subprocess
from contextlib import suppress
from typing import Any

from labkit import cgroups, faults, machine, paths, record
from labkit.errors import BusyError, LabError
from labkit.inventory import Host, Lab
from labkit.output import say


def of_lab(lab: Lab) -> dict[str, Any]:
    """State of a lab and its hosts; heals faults whose time is over."""
    trees = cgroups.detect()
    # Whoever works on the lab now heals what is overdue; looking must not wait for them.
    with suppress(BusyError), record.locked(lab.name, wait_s=0):
        faults.heal_overdue(lab.name, trees)
    known = record.load(lab.name)
    active = faults.load_all(lab.name)
    hosts = []
    for host in lab.hosts:
        kept = machine.of_host(lab.name, host)
        leader = cgroups.leader(trees, kept.machine)
        memory = cgroups.memory_bytes(trees, kept.machine)
        hosts.append(
            {
                "name": host.name,
                "address": host.address,
                "machine": host.machine,
                "state": machine_state(machine.supervisor(kept), leader, kept.power_file.exists()),
                "leader": leader,
                "memory_mb": None if memory is None else memory // 2**20,
                "faults": [fault.describe() for fault in active if host.name in (fault.host, fault.peer)],
            }
        )
    return {
        "lab": lab.name,
        "up": known is not None,
        "owner": known.owner if known else None,
        "inventory": known.inventory if known else lab.inventory,
        "network": lab.network,
        "gateway": lab.gateway,
        "state_directory": str(paths.state_directory(lab.name)),
        "hosts": hosts,
    }


def machine_state(supervisor: int | None, leader: int | None, power_is_cut: bool) -> str:
    """Word for the state of a machine."""
    if supervisor is not None and leader is not None:
        return "running"
    if supervisor is not None:
        return "power cut" if power_is_cut else "booting"
    return "unattended" if leader is not None else "off"


def show(content: dict[str, Any], as_json: bool) -> None:
    """Show the state of a lab."""
    if as_json:
        say(json.dumps(content, indent=1))
        return
    if content["up"]:
        say(f"lab {content['lab']} on {content['network']}, up from {content['owner']}")
    else:
        say(f"lab {content['lab']} is down")
    for host in content["hosts"]:
        memory = "" if host["memory_mb"] is None else f"{host['memory_mb']} MB"
        words = "; ".join(host["faults"])
        say(f"  {host['name']:<12} {host['address']:<15} {host['state']:<11} {memory:>8}  {words}".rstrip())


def execute(lab: Lab, host: Host, command: list[str]) -> int:
    """Run a command as root inside a host, past its network; return its status."""
    leader = cgroups.leader(cgroups.detect(), host.machine)
    if leader is None:
        raise LabError(f"{host.name} is not running; see labctl status {lab.name}")
    environment = [
        "HOME=/root",
        "LANG=C.UTF-8",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]
    if term := os.environ.get("TERM"):
        environment.append(f"TERM={term}")
    enter = ["nsenter", "--all", "--root", "--wd", f"--target={leader}"]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return subprocess.call([*enter, "--", "env", "-i", *environment, *command])
