"""Ports that a host listens on, from what `ss -Hltunp` prints. Pure logic.

Standard library only: Ansible ships this file with the module that uses it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_PROGRAM = re.compile(r'users:\(\("([^"]+)"')


@dataclass(frozen=True, order=True)
class Listener:
    """A socket that others can reach; ``program`` is the kernel's short name of who has it."""

    protocol: str
    port: int
    program: str


def listeners(text: str) -> list[Listener]:
    """Return what can be reached from other hosts, each protocol and port once."""
    found: dict[tuple[str, int], Listener] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 5:
            continue
        address, _, port = words[4].rpartition(":")
        if not port.isdigit() or _is_loopback(address):
            continue
        program = _PROGRAM.search(line)
        found.setdefault((words[0], int(port)), Listener(words[0], int(port), program[1] if program else ""))
    return sorted(found.values())


def _is_loopback(address: str) -> bool:
    text = address.strip("[]").partition("%")[0]
    if address.partition("%")[2].startswith("lo"):
        return True
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        # `*` is every address.
        return False
