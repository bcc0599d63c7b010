"""Bring a lab up and down, and say how it stands."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from labkit import cgroups, clone, faults, image, keys, machine, naming, network, paths, prerequisites, record
from labkit import proxy_control as proxy
from labkit.errors import LabError
from labkit.inventory import Host, Lab

SSH_WAIT_S = 90.0


def say(text: str) -> None:
    """Tell the user, at once."""
    print(text, flush=True)


def up(lab: Lab, only: tuple[str, ...], fresh: bool) -> None:
    """Boot the hosts of a lab (or some) that are not running; `fresh` throws their disks away first."""
    begin = time.monotonic()
    chosen = [lab.host(name) for name in only] if only else list(lab.hosts)
    prerequisites.check(len(chosen), paths.CACHE, paths.DISKS)
    base, built_s = image.ensure()
    if built_s:
        say(f"base image ready in {built_s:.1f} s")
        image.remove_unused(paths.DISKS)
    with record.locked(lab.name):
        trees = cgroups.detect()
        _claim(lab, trees)
        faults.heal_overdue(lab.name, trees)
        _remove_strangers(lab, trees)
        network.create(lab.name, lab.network, lab.gateway)
        proxy.ensure()
        state = paths.state_directory(lab.name)
        public_key = keys.ensure_key(state)
        servers = network.host_nameservers()
        if not servers:
            say(
                "note: no name server that a host could reach is in /etc/resolv.conf; hosts only have apt's cache"
            )
        waiting: list[tuple[Host, machine.Machine]] = []
        for host in chosen:
            kept = machine.of_host(lab.name, host)
            running = machine.is_running(trees, kept)
            if running and not fresh:
                say(f"  {host.name:<12} {host.address:<15} runs already")
                continue
            if running:
                machine.stop(trees, kept)
            waiting.append((host, kept))
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(lambda item: _boot(lab, item, trees, base, fresh, public_key, servers), waiting))
            known = {h: key for h in lab.hosts if (key := clone.host_key(lab.name, h.name)) is not None}
            keys.write(lab, state, known)
            list(pool.map(lambda item: _await(state, item, begin), waiting))
    say(f"lab {lab.name} is up: {len(lab.hosts)} hosts on {lab.network}, {time.monotonic() - begin:.1f} s")


def _boot(
    lab: Lab,
    item: tuple[Host, machine.Machine],
    trees: cgroups.Trees,
    base: Path,
    fresh: bool,
    public_key: str,
    servers: list[str],
) -> None:
    host, kept = item
    if machine.supervisor(kept) or cgroups.processes(trees, kept.machine):
        say(f"  {host.name:<12} removing what a killed run left")
        machine.stop(trees, kept)
    machine.clear(trees, kept.machine)
    clone.prepare(lab, host, base, fresh)
    clone.refresh(lab, host, public_key, servers)
    machine.start(kept)


def _await(state: Path, item: tuple[Host, machine.Machine], begin: float) -> None:
    host, kept = item
    system = machine.wait_for_ssh(kept, state, host.address, SSH_WAIT_S)
    note = "" if system == "running" else f" (systemd says {system})"
    say(f"  {host.name:<12} {host.address:<15} answers ssh after {time.monotonic() - begin:.1f} s{note}")


def _claim(lab: Lab, trees: cgroups.Trees) -> None:
    owner = str(paths.REPOSITORY)
    for other in record.all_records():
        if other.lab == lab.name:
            same = (other.owner, other.inventory, other.network) == (owner, lab.inventory, lab.network)
            if not same and cgroups.machines(trees, naming.machine_prefix(lab.name)):
                raise LabError(
                    f"lab {lab.name} is up already, from inventory {other.inventory} of {other.owner} on "
                    f"{other.network}; end it with: {owner}/lab/labctl down {lab.name}"
                )
        elif other.network == lab.network:
            raise LabError(
                f"network {lab.network} is used by lab {other.lab} (inventory {other.inventory}); end that with "
                f"'labctl down {other.lab}', or change the addresses in {lab.inventory}/hosts.yml"
            )
        elif naming.machine_prefix(other.lab) == naming.machine_prefix(lab.name):
            raise LabError(
                f"labs {lab.name} and {other.lab} get the same short tag; rename one of the folders"
            )
    if record.load(lab.name) is None:
        record.forget(lab.name)
    record.save(
        record.Record(
            lab=lab.name,
            owner=owner,
            inventory=lab.inventory,
            network=lab.network,
            gateway=lab.gateway,
            bridge=naming.bridge_name(lab.name),
            boot_id=record.boot_id(),
        )
    )


def _remove_strangers(lab: Lab, trees: cgroups.Trees) -> None:
    """End machines of this lab whose host is no longer in the inventory."""
    for name in cgroups.machines(trees, naming.machine_prefix(lab.name)) - {
        host.machine for host in lab.hosts
    }:
        for kept in _known_machines(lab.name):
            if kept.machine == name:
                say(f"  {kept.host:<12} is no longer in the inventory: stopping it")
                machine.stop(trees, kept)
                clone.unmount(clone.disk(lab.name, kept.host))
                break
        else:
            machine.clear(trees, name)


def _known_machines(lab: str) -> list[machine.Machine]:
    folder = paths.run_directory(lab)
    names = sorted(f.parent.name for f in folder.glob("*/machine.json")) if folder.is_dir() else []
    return [machine.load(lab, name) for name in names]


def down(lab: str, purge: bool) -> None:
    """Stop all hosts of a lab and remove everything but their disks (and these too with `purge`)."""
    begin = time.monotonic()
    with record.locked(lab):
        trees = cgroups.detect()
        faults.heal_all(lab, trees)
        known = _known_machines(lab)
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(lambda kept: machine.stop(trees, kept), known))
        for name in cgroups.machines(trees, naming.machine_prefix(lab)):
            machine.clear(trees, name)
        network.remove_ports(naming.machine_prefix(lab))
        disks = paths.disk_directory(lab)
        for home in sorted(disks.iterdir()) if disks.is_dir() else []:
            place = clone.Disk(home)
            clone.unmount(place)
            if purge:
                clone.delete(place)
        if purge and disks.is_dir():
            disks.rmdir()
        network.remove(lab)
        record.forget(lab)
        cgroups.remove_parents(trees)
        if not record.all_records():
            network.restore_forwarding()
    proxy.update()
    kept_or_not = "disks deleted" if purge else "disks kept"
    say(f"lab {lab} is down: {len(known)} hosts, {kept_or_not}, {time.monotonic() - begin:.1f} s")


def labs_to_end() -> list[str]:
    """Names of all labs that are up, or of which something is left."""
    names = {other.lab for other in record.all_records()}
    if paths.RUN.is_dir():
        names.update(folder.name for folder in paths.RUN.iterdir() if folder.is_dir())
    if paths.DISKS.is_dir():
        names.update(folder.name for folder in paths.DISKS.iterdir() if folder.is_dir())
    return sorted(names)


def status(lab: Lab) -> dict[str, Any]:
    """State of a lab and its hosts; heals faults whose time is over."""
    trees = cgroups.detect()
    with record.locked(lab.name):
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


def print_status(content: dict[str, Any], as_json: bool) -> None:
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
    return os.spawnvp(os.P_WAIT, "nsenter", [*enter, "--", "env", "-i", *environment, *command])
