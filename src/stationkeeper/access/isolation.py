"""Rules of nftables that cut a host off from all but a few addresses, until a moment. Pure logic.

The moment stands in the rules, so the isolation ends by itself whatever becomes of whoever asked for it.
Standard library only: Ansible ships this file with the module that uses it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from .nftables import comment, lasts, removed

TABLE = "stationkeeper_isolated"
_END = re.compile(
    r'^    meta time >= (\d+) accept\n(?:.*\n)*?    counter drop comment "until \S+, run (.*)"$', re.M
)


def until_and_note(text: str, keep: Iterable[str], until: int, note: str, now: int) -> tuple[int, str]:
    """Return end and note of the rules that are to be: those of a file that is good for long enough."""
    found = _END.search(text)
    if found and lasts(int(found[1]), until, now):
        there = int(found[1]), found[2]
        if text == written(keep, *there):
            return there
    return until, note


def written(keep: Iterable[str], until: int, note: str) -> str:
    """Return the file for ``nft -f``: only these addresses may send to the host and be sent to."""
    networks = [ipaddress.ip_network(address, strict=False) for address in keep]
    ways = [("input", "prerouting", "iif", "saddr"), ("output", "output", "oif", "daddr")]
    text = "# Written by security_isolate_host. Times are seconds since 1970.\n" + removed(TABLE)
    text += f"table inet {TABLE} {{\n"
    for chain, hook, interface, field in ways:
        text += f"  chain {chain} {{\n"
        # Before connections are tracked: those that stand are cut, too.
        text += f"    type filter hook {hook} priority raw; policy accept;\n"
        text += f"    {interface} lo accept\n    meta time >= {until} accept\n"
        # IPv6 finds its neighbours by these, as IPv4 does by ARP, which is not filtered here.
        text += "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept\n"
        for network in networks:
            text += f"    {'ip' if network.version == 4 else 'ip6'} {field} {network} accept\n"
        text += f'    counter drop comment "{comment(until, note)}"\n  }}\n'
    return text + "}\n"
