"""How long the controller's cycles took, from what it writes into the journal once a minute. Pure logic.

Standard library only: Ansible ships this file with the module that uses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .journal import message, parsed

#: What stationkeeper.controller.service writes.
WORD = "cycle_time mean="
_LINE = re.compile(r"(\S+): cycle_time mean=([\d.]+)s max=([\d.]+)s cycles=(\d+)")


@dataclass
class Device:
    """The cycles of one device. Seconds; ``slowest_at`` is RFC 3339 in UTC; no cadence is known as 0."""

    device: str
    cycles: int = 0
    mean_s: float = 0.0
    max_s: float = 0.0
    slowest_at: str = ""
    cadence_s: float = 0.0

    @property
    def slow(self) -> bool:
        """Whether a cycle took longer than there was time until the next."""
        return 0 < self.cadence_s < self.max_s

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for Ansible."""
        return {**asdict(self), "mean_s": round(self.mean_s, 4), "slow": self.slow}


def devices(lines: Iterable[str], cadences: Mapping[str, float]) -> list[Device]:
    """Return the cycles of each device in lines of a journal; those of ``cadences`` also without any."""
    found = {name: Device(name, cadence_s=cadence) for name, cadence in cadences.items()}
    for line in lines:
        at, entry = parsed(line)
        told = _LINE.search(message(entry))
        if told is None:
            continue
        name, mean, most, cycles = told[1], float(told[2]), float(told[3]), int(told[4])
        one = found.setdefault(name, Device(name))
        if one.cycles + cycles:
            one.mean_s = (one.mean_s * one.cycles + mean * cycles) / (one.cycles + cycles)
        one.cycles += cycles
        if most >= one.max_s:
            one.max_s, one.slowest_at = most, at.isoformat(timespec="seconds")
    return sorted(found.values(), key=lambda one: one.device)
