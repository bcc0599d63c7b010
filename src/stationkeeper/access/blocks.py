"""Addresses whose packets a host drops until a moment, as rules of nftables. Pure logic.

Each rule has its own end, which the kernel looks at: no timer has to run for a block to end, and a host that
boots later has none of it. Standard library only: Ansible ships this file with the module that uses it.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .nftables import comment, lasts, removed

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

TABLE = "stationkeeper_blocked"
#: A larger network than these is hardly meant.
_LARGEST = {4: 16, 6: 32}
_RULE = re.compile(r'^\s*ip6? saddr (\S+) meta time < (\d+) counter drop comment "([^"]*)"$', re.MULTILINE)


class BlockError(ValueError):
    """An address that is not blocked; the message says why."""


@dataclass(frozen=True)
class Block:
    """Packets from ``network`` are dropped until a moment (seconds since 1970); ``note`` names the run."""

    network: Network
    until: int
    note: str

    @property
    def comment(self) -> str:
        """What the kernel keeps beside the rule."""
        return comment(self.until, self.note)


def network(text: str) -> Network:
    """Return an address or a network. Raises BlockError."""
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        raise BlockError(f"{text!r} is no address and no network like 203.0.113.0/24: {error}") from None
    if found.prefixlen < _LARGEST[found.version]:
        raise BlockError(
            f"{text} is larger than a /{_LARGEST[found.version]}: block the parts that are meant"
        )
    if found.is_loopback or found.is_unspecified or found.is_multicast:
        raise BlockError(f"{text} is not an address that somebody sends from")
    return found


def require_unprotected(wanted: Iterable[Network], protected: Mapping[str, Iterable[str]]) -> None:
    """Refuse what would cut off somebody who has to reach the host. Raises BlockError.

    ``protected`` has the addresses and networks of each name.
    """
    for one in wanted:
        for name, texts in protected.items():
            for text in texts:
                if one.overlaps(ipaddress.ip_network(text, strict=False)):
                    raise BlockError(
                        f"{one} holds {name}{'' if name == text else f' ({text})'}, which has to reach this "
                        "system: nothing was blocked"
                    )


def changed(
    blocks: Sequence[Block], wanted: Iterable[Network], *, until: int | None, note: str, now: int
) -> list[Block]:
    """Return the blocks that are to be: without those that have ended, and with or without the wanted ones.

    ``until`` None lifts. A block is made to last longer where that is asked for, never shorter.
    """
    kept = {one.network: one for one in blocks if one.until > now}
    for one in wanted:
        if until is None:
            kept.pop(one, None)
        elif one not in kept or not lasts(kept[one].until, until, now):
            kept[one] = Block(one, until, note)
    return sorted(kept.values(), key=lambda one: (one.network.version, str(one.network)))


def written(blocks: Iterable[Block]) -> str:
    """Return the file for ``nft -f``, which replaces the table as one step; without a block, removes it."""
    rules = [
        f"    {'ip' if one.network.version == 4 else 'ip6'} saddr {one.network}"
        f' meta time < {one.until} counter drop comment "{one.comment}"\n'
        for one in blocks
    ]
    text = "# Written by security_block_address. Times are seconds since 1970.\n"
    text += removed(TABLE)
    if rules:
        # Before connections are tracked: one that stands is cut, too.
        text += f"table inet {TABLE} {{\n  chain input {{\n"
        text += "    type filter hook prerouting priority raw; policy accept;\n"
        text += "".join(rules) + "  }\n}\n"
    return text


def read(text: str) -> list[Block]:
    """Return the blocks of a file that `written` made. Raises BlockError for another one."""
    found = []
    for address, until, beside in _RULE.findall(text):
        found.append(Block(ipaddress.ip_network(address), int(until), beside.rpartition(", run ")[2]))
    if text and text != written(found):
        raise BlockError(
            "the file with the blocks was changed by hand: put it away, and block again what is to stay so"
        )
    return found


def in_force(text: str) -> dict[str, int]:
    """Return how many packets each rule dropped, by its comment, from `nft --json list ruleset`."""
    rules = [one["rule"] for one in json.loads(text)["nftables"] if "rule" in one]
    return {
        str(rule.get("comment", "")): next(
            (int(part["counter"]["packets"]) for part in rule["expr"] if "counter" in part), 0
        )
        for rule in rules
        if rule["table"] == TABLE
    }
