"""Whether whoever is logged in now could come again under other rules.

Standard library only: Ansible ships this file with the modules that use it.
"""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Sequence


class WayBackError(ValueError):
    """Rules that would lock out who asks for them; the message says what to do."""


def peers() -> list[str]:
    """Return where the sessions of ssh come from that stand now, whatever port sshd listens on."""
    listed = subprocess.run(
        ["ss", "-Htnp", "state", "established"], capture_output=True, text=True, check=True
    ).stdout
    lines = [line.split() for line in listed.splitlines() if "sshd" in line]
    return [words[3].rpartition(":")[0] for words in lines]


def require(peers: Sequence[str], allowed: Sequence[str], option: str) -> None:
    """Refuse rules under which none of those who are logged in now can come again. Raises WayBackError.

    ``peers`` are addresses, ``allowed`` networks; ``option`` is what an operator has to complete.
    """
    networks = [ipaddress.ip_network(address, strict=False) for address in allowed]
    if not any(plain(peer) in network for peer in peers for network in networks):
        came = ", ".join(sorted(set(peers))) or "nowhere that ss knows"
        through = ", ".join(allowed) or "nobody"
        raise WayBackError(
            f"nothing was changed: sessions of ssh come from {came}, and only {through} would come through: "
            f"say the address that this host sees in `{option}`"
        )


def plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address as it is, without a zone or the IPv6 dress of an IPv4 one."""
    found = ipaddress.ip_address(address.strip("[]").partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return mapped or found
