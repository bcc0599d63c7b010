"""Bridge, address translation and cuts of a lab. All rules are in tables of the lab's own.

A cut is an element with a timeout in a set that the kernel keeps: it heals whoever dies.
"""

import json
import re
from pathlib import Path

from labkit import naming
from labkit.errors import LabError
from labkit.paths import RUN
from labkit.record import all_records, lock_file, read_json, write_json
from labkit.shell import run, succeeds

FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


def render_rules(lab: str, network: str) -> str:
    """Firewall tables of a lab: address translation, no way into other labs, and the sets of cuts."""
    bridge = naming.bridge_name(lab)
    table = naming.table_name(lab)
    return f"""
table ip {table} {{
  chain translate {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {network} oifname != "{bridge}" masquerade
  }}
  chain separate {{
    type filter hook forward priority filter; policy accept;
    iifname "{bridge}" oifname "sk-*" oifname != "{bridge}" drop
  }}
}}
table bridge {table} {{
  set cut {{ type ifname; flags timeout; }}
  set cut_pair {{ type ifname . ifname; flags timeout; }}
  set cut_control {{ type ifname; flags timeout; }}
  chain between {{
    type filter hook forward priority 0; policy accept;
    iifname @cut drop
    oifname @cut drop
    iifname . oifname @cut_pair drop
  }}
  chain to_control {{
    type filter hook input priority 0; policy accept;
    iifname @cut_control drop
  }}
  chain from_control {{
    type filter hook output priority 0; policy accept;
    oifname @cut_control drop
  }}
}}
"""


def cut_elements(port: str, peer: str | None, control: bool) -> list[tuple[str, str]]:
    """Set elements that cut a port from all others (or from one peer, and from the control node too)."""
    elements: list[tuple[str, str]] = []
    if peer is None:
        elements.append(("cut", f'"{port}"'))
    else:
        elements.append(("cut_pair", f'"{port}" . "{peer}"'))
        elements.append(("cut_pair", f'"{peer}" . "{port}"'))
    if control:
        elements.append(("cut_control", f'"{port}"'))
    return elements


def add_cut(lab: str, elements: list[tuple[str, str]], seconds: int) -> None:
    """Cut for a time; a cut that is there already gets the new time."""
    remove_cut(lab, elements)
    table = naming.table_name(lab)
    commands = [f"add element bridge {table} {name} {{ {key} timeout {seconds}s }}" for name, key in elements]
    run("nft", "-f", "-", stdin="\n".join(commands) + "\n")


def remove_cut(lab: str, elements: list[tuple[str, str]]) -> None:
    """End a cut; one that has ended by itself is no error."""
    table = naming.table_name(lab)
    for name, key in elements:
        succeeds("nft", f"delete element bridge {table} {name} {{ {key} }}")


def has_table(lab: str) -> bool:
    """Say whether the firewall tables of a lab are loaded."""
    table = naming.table_name(lab)
    return succeeds("nft", "list", "table", "bridge", table) and succeeds("nft", "list", "table", "ip", table)


def device_exists(name: str) -> bool:
    """Say whether a network device exists."""
    return Path("/sys/class/net", name).exists()


def check_free(lab: str, network: str) -> None:
    """Raise `LabError` when the computer already uses the network for something else."""
    bridge = naming.bridge_name(lab)
    prefix = network.rsplit(".", 1)[0] + "."
    for link in json.loads(run("ip", "-j", "-4", "address")):
        if link.get("ifname") == bridge:
            continue
        for address in link.get("addr_info", []):
            if str(address.get("local", "")).startswith(prefix):
                raise LabError(
                    f"this computer has {address['local']} on {link['ifname']}: network {network} of lab "
                    f"{lab} is taken; choose another prefix in the inventory's hosts.yml"
                )


def create(lab: str, network: str, gateway: str) -> None:
    """Make the bridge and load the rules; both may be there already."""
    bridge = naming.bridge_name(lab)
    check_free(lab, network)
    if not device_exists(bridge):
        run("ip", "link", "add", bridge, "address", naming.bridge_mac(lab), "type", "bridge")
    disable_ipv6 = Path("/proc/sys/net/ipv6/conf", bridge, "disable_ipv6")
    if disable_ipv6.exists():
        disable_ipv6.write_text("1")
    run("ip", "address", "replace", f"{gateway}/24", "dev", bridge)
    run("ip", "link", "set", bridge, "up")
    with lock_file(RUN / "forwarding.lock", "the computer's forwarding switch"):
        if FORWARD.read_text().strip() != "1":
            write_json(RUN / "ip_forward.json", {"before": FORWARD.read_text().strip()})
            FORWARD.write_text("1")
    if not has_table(lab):
        remove_rules(lab)
        run("nft", "-f", "-", stdin=render_rules(lab, network))


def remove_rules(lab: str) -> None:
    """Remove the firewall tables of a lab."""
    for family in ("ip", "bridge"):
        succeeds("nft", "delete", "table", family, naming.table_name(lab))


def remove(lab: str) -> None:
    """Remove the rules and the bridge of a lab."""
    remove_rules(lab)
    if device_exists(naming.bridge_name(lab)):
        run("ip", "link", "delete", naming.bridge_name(lab))


def remove_port(machine: str) -> None:
    """Remove a machine's device on the bridge that was left over."""
    port = naming.port_name(machine)
    if device_exists(port):
        succeeds("ip", "link", "delete", port)


def restore_forwarding() -> None:
    """Set the forwarding switch of the computer back once the last lab is down."""
    with lock_file(RUN / "forwarding.lock", "the computer's forwarding switch"):
        noted = read_json(RUN / "ip_forward.json")
        if all_records() or not isinstance(noted, dict):
            return
        FORWARD.write_text(str(noted["before"]))
        (RUN / "ip_forward.json").unlink()


def nameservers(text: str) -> list[str]:
    """Name servers of a resolv.conf that a host behind the bridge can reach as well."""
    found = re.findall(r"^nameserver\s+(\S+)", text, re.MULTILINE)
    return [server for server in found if not server.startswith("127.") and ":" not in server]


def host_nameservers() -> list[str]:
    """Name servers to give to the hosts; those behind a local stub resolver where there is one."""
    for source in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        path = Path(source)
        if path.is_file() and (servers := nameservers(path.read_text())):
            return servers
    return []


def remove_ports(prefix: str) -> None:
    """Remove devices of machines that are down, by the prefix of the machines' names."""
    for device in Path("/sys/class/net").glob(f"{naming.port_name(prefix)}*"):
        succeeds("ip", "link", "delete", device.name)
