"""Rules of nftables that refuse what is not declared. Pure logic.

Standard library only: Ansible ships this file with the module that uses it.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .nftables import removed

TABLE = "stationkeeper_firewall"


@dataclass(frozen=True)
class Port:
    """What a host serves, and to which networks."""

    protocol: str
    number: int
    networks: tuple[str, ...]


def ports(declared: Iterable[Mapping[str, object]], sources: Sequence[str]) -> list[Port]:
    """Return declared ports with their networks; those without ``from`` are for ``sources``."""
    return [
        Port(str(one["protocol"]), int(str(one["port"])), tuple(_list(one.get("from")) or sources))
        for one in declared
    ]


def _list(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else []


def ssh_networks(allowed: Iterable[Port], number: int) -> list[str]:
    """Return the networks that reach sshd on a port."""
    return [
        network
        for one in allowed
        if (one.protocol, one.number) == ("tcp", number)
        for network in one.networks
    ]


def written(allowed: Sequence[Port], until: int = 0) -> str:
    """Return the file for ``nft --file``: what is not allowed is refused.

    ``until`` (seconds since 1970) is the end of rules that nobody has confirmed; without it they stay.
    """
    by_networks: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for one in allowed:
        by_networks.setdefault((one.protocol, tuple(sorted(set(one.networks)))), []).append(one.number)
    rules = []
    for (protocol, networks), numbers in sorted(by_networks.items()):
        served = f"{protocol} dport {{ {', '.join(str(number) for number in sorted(set(numbers)))} }} accept"
        for version, field in ((4, "ip"), (6, "ip6")):
            of_version = [
                name for name in networks if ipaddress.ip_network(name, strict=False).version == version
            ]
            if of_version:
                rules.append(f"{field} saddr {{ {', '.join(of_version)} }} {served}")
    trial = [f"meta time >= {until} accept"] if until else []
    lines = [
        *trial,
        "ct state established,related accept",
        "ct state invalid drop",
        "iif lo accept",
        "meta l4proto { icmp, ipv6-icmp } accept",
        # Answers of DHCP come from a server that was asked by broadcast.
        "udp sport 67 udp dport 68 accept",
        *rules,
        "fib daddr type { broadcast, multicast } drop",
    ]
    mark = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    lines += [
        f'meta l4proto tcp counter reject with tcp reset comment "{mark}"',
        f'counter reject with icmpx admin-prohibited comment "{mark}"',
    ]
    body = "".join(f"    {line}\n" for line in lines)
    return (
        "# Written by Ansible, role firewall.\n"
        f"{removed(TABLE)}table inet {TABLE} {{\n  chain input {{\n"
        f"    type filter hook input priority filter; policy accept;\n{body}  }}\n}}\n"
    )


def mark(text: str) -> str:
    """Return what the kernel keeps beside the rules of a file that `written` made."""
    return text.rpartition('comment "')[2].partition('"')[0]
