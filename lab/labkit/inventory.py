"""Read the hosts of a lab from an Ansible inventory folder.

Only `hosts.yml` is read: addresses and the lab's own host variables (`lab_disk_mb`, `lab_memory_mb`) are
literals there, as host variables or as `vars` of a group, so no Ansible run is needed to boot a lab.
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from labkit.errors import LabError
from labkit.naming import check_host_name, check_lab_name, machine_name

MINIMUM_DISK_MB = 64
MINIMUM_MEMORY_MB = 64


@dataclass(frozen=True)
class Host:
    """One host: `disk_mb` and `memory_mb` are None where it has no limit of its own."""

    name: str
    address: str
    machine: str
    disk_mb: int | None = None
    memory_mb: int | None = None


@dataclass(frozen=True)
class Lab:
    """A lab as its inventory describes it."""

    name: str
    inventory: str
    network: str
    hosts: tuple[Host, ...]

    @property
    def gateway(self) -> str:
        """Address of the control node on the lab's bridge: the first one of the network."""
        return str(ipaddress.ip_network(self.network)[1])

    def host(self, name: str) -> Host:
        """Return a host by name, or raise `LabError` naming the hosts there are."""
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts)
        raise LabError(f"lab {self.name} has no host '{name}'; its hosts are: {known}")


def lab_name(inventory: str) -> str:
    """Lab name of an inventory folder (or of its hosts.yml, or a plain lab name)."""
    path = Path(inventory)
    if path.name == "hosts.yml":
        path = path.absolute().parent
    return check_lab_name(path.name or path.absolute().name)


def read(inventory: str) -> Lab:
    """Read an inventory folder; raise `LabError` for anything that could not be booted."""
    path = Path(inventory)
    if path.name == "hosts.yml":
        path = path.parent
    path = path.absolute()
    source = path / "hosts.yml"
    if not source.is_file():
        raise LabError(f"{source} does not exist; give an inventory folder such as inventories/flux")
    try:
        content = yaml.safe_load(source.read_text())
    except yaml.YAMLError as error:
        raise LabError(f"{source} is not valid YAML: {error}") from None
    variables = host_variables(content)
    return build(lab_name(str(path)), str(path), variables)


def host_variables(content: Any) -> dict[str, dict[str, Any]]:
    """Flatten an inventory in YAML form to the variables of each host (nearer groups win)."""
    if not isinstance(content, dict):
        raise LabError("the inventory is empty")
    from_groups: dict[str, dict[str, Any]] = {}
    own: dict[str, dict[str, Any]] = {}

    def walk(group: Any, inherited: dict[str, Any]) -> None:
        if not isinstance(group, dict):
            return
        merged = {**inherited, **(group.get("vars") or {})}
        for name, values in (group.get("hosts") or {}).items():
            from_groups.setdefault(str(name), {}).update(merged)
            own.setdefault(str(name), {}).update(values or {})
        for child in (group.get("children") or {}).values():
            walk(child, merged)

    for group in content.values():
        walk(group, {})
    return {name: {**from_groups[name], **own[name]} for name in own}


def _limit(host: str, name: str, value: Any, minimum: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise LabError(f"{host}: {name} must be a whole number of MB, at least {minimum}, not {value!r}")
    return value


def build(lab: str, inventory: str, variables: dict[str, dict[str, Any]]) -> Lab:
    """Check the hosts' variables together and make the lab of them."""
    hosts: list[Host] = []
    networks: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name, values in variables.items():
        check_host_name(name)
        if values.get("ansible_connection") == "local":
            continue
        address = str(values.get("ansible_host") or "")
        try:
            network = ipaddress.IPv4Interface(f"{address}/24").network
        except ValueError:
            raise LabError(
                f"{name}: ansible_host must be a literal IPv4 address in hosts.yml, not {address!r}"
            ) from None
        if not network.is_private:
            raise LabError(
                f"{name}: {address} is not in a private network; a lab never uses public addresses"
            )
        if address in (str(network[0]), str(network[1]), str(network[255])):
            raise LabError(f"{name}: {address} is taken (.0 network, .1 control node, .255 broadcast)")
        if address in owners:
            raise LabError(f"{name} and {owners[address]} have the same address {address}")
        owners[address] = name
        networks[str(network)] = name
        hosts.append(
            Host(
                name=name,
                address=address,
                machine=machine_name(lab, name),
                disk_mb=_limit(name, "lab_disk_mb", values.get("lab_disk_mb"), MINIMUM_DISK_MB),
                memory_mb=_limit(name, "lab_memory_mb", values.get("lab_memory_mb"), MINIMUM_MEMORY_MB),
            )
        )
    if not hosts:
        raise LabError(f"{inventory}/hosts.yml names no host")
    if len(networks) > 1:
        each = ", ".join(f"{network} ({host})" for network, host in networks.items())
        raise LabError(f"all hosts of a lab must lie in one /24, but hosts.yml has: {each}")
    return Lab(lab, inventory, next(iter(networks)), tuple(sorted(hosts, key=lambda host: host.name)))
