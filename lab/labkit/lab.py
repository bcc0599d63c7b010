"""Bring a lab up and down."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from labkit import cgroups, clone, faults, image, keys, machine, naming, network, paths, prerequisites, record
from labkit import proxy_control as proxy
from labkit.errors import LabError
from labkit.inventory import Host, Lab
from labkit.output import say

SSH_WAIT_S = 90.0


@dataclass(frozen=True)
class Boot:
    """What all hosts that boot together share."""

    lab: Lab
    trees: cgroups.Trees
    base: Path
    fresh: bool
    public_key: str
    nameservers: list[str]
    begin: float

    def start(self, host: Host) -> None:
        """Make the disk of a host that is down and start its machine."""
        kept = machine.of_host(self.lab.name, host)
        if machine.supervisor(kept) or cgroups.processes(self.trees, kept.machine):
            say(f"  {host.name:<12} removing what a killed run left")
            machine.stop(self.trees, kept)
        machine.clear(self.trees, kept.machine)
        clone.prepare(self.lab, host, self.base, self.fresh)
        clone.refresh(self.lab, host, self.public_key, self.nameservers)
        machine.start(kept)

    def wait(self, host: Host) -> None:
        """Wait until a host answers ssh and say so."""
        kept = machine.of_host(self.lab.name, host)
        state = paths.state_directory(self.lab.name)
        system = machine.wait_for_ssh(kept, state, host.address, SSH_WAIT_S)
        machine.note_ready(self.trees, kept)
        note = "" if system == "running" else f" (systemd says {system})"
        seconds = time.monotonic() - self.begin
        say(f"  {host.name:<12} {host.address:<15} answers ssh after {seconds:.1f} s{note}")


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
        proxy.ensure(lab.gateway)
        state = paths.state_directory(lab.name)
        servers = network.host_nameservers()
        if not servers:
            say("note: /etc/resolv.conf names no server that hosts could reach; they only have the apt cache")
        boot = Boot(lab, trees, base, fresh, keys.ensure_key(state), servers, begin)
        starting, waiting = _choose(boot, chosen)
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(boot.start, starting))
            known = {h: key for h in lab.hosts if (key := clone.host_key(lab.name, h.name)) is not None}
            keys.write(lab, state, known)
            list(pool.map(boot.wait, [*starting, *waiting]))
    say(f"lab {lab.name} is up: {len(chosen)} hosts on {lab.network}, {time.monotonic() - begin:.1f} s")


def _choose(boot: Boot, chosen: list[Host]) -> tuple[list[Host], list[Host]]:
    """Hosts to start, and hosts that run but were never seen to answer (a killed `up` left them booting).

    A host that runs under a fault is left alone: it need not answer.
    """
    starting: list[Host] = []
    waiting: list[Host] = []
    faulty = {name for fault in faults.load_all(boot.lab.name) for name in (fault.host, fault.peer)}
    for host in chosen:
        kept = machine.of_host(boot.lab.name, host)
        if not machine.is_running(boot.trees, kept):
            starting.append(host)
            continue
        if boot.fresh:
            machine.stop(boot.trees, kept)
            starting.append(host)
            continue
        # The control node may have another state directory, and so another key, than at the first `up`.
        clone.trust_key(clone.disk(boot.lab.name, host.name).root, boot.public_key)
        if machine.was_ready(boot.trees, kept) or host.name in faulty:
            say(f"  {host.name:<12} {host.address:<15} runs already")
        else:
            waiting.append(host)
    return starting, waiting


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
                f"network {lab.network} is used by lab {other.lab} (inventory {other.inventory}); end that "
                f"with 'labctl down {other.lab}', or change the addresses in {lab.inventory}/hosts.yml"
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
        network.restore_forwarding()
        record.remove_lock(lab)
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
