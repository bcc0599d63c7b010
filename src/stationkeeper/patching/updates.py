"""Which updates wait, and what has to be restarted before they have an effect. Pure logic.

Standard library only: Ansible ships this file with the module that uses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

#: A line of `apt-get --simulate`: Inst libssl3t64 [3.5.1-1] (3.5.4-1 Debian-Security:13/stable [amd64]) []
_INSTALL = re.compile(r"^Inst (\S+)(?: \[(\S+)\])? \((\S+) (.*?) \[\S+\]\)")
_SECURITY = re.compile(r"(^|, )Debian-Security:")
_VERSION = re.compile(r"(\d+)|(\D+)")
#: What has a runbook of its own for its restart, or is the way in.
KEPT = re.compile(
    r"^(postgresql@.*|patroni|etcd|ssh|dbus|systemd-.*|user@.*|getty@.*|init)\.(service|scope)$"
)


@dataclass(frozen=True, order=True)
class Update:
    """One package; ``before`` is empty for one that comes along."""

    package: str
    before: str
    after: str
    security: bool

    def as_dict(self) -> dict[str, object]:
        """Return plain data for Ansible."""
        return asdict(self)


@dataclass(frozen=True)
class Split:
    """What is to be installed and what is left out, by package."""

    wanted: tuple[Update, ...]
    left: tuple[Update, ...]


def parse(simulated: str) -> list[Update]:
    """Return the updates that `apt-get --simulate upgrade` would make."""
    found = []
    for line in simulated.splitlines():
        match = _INSTALL.match(line)
        if match:
            package, before, after, origins = match.groups()
            found.append(Update(package, before or "", after, bool(_SECURITY.search(origins))))
    return sorted(found)


def split(updates: Iterable[Update], *, security_only: bool, exclude: Iterable[str]) -> Split:
    """Return which updates are wanted. ``exclude`` are regular expressions on names, from their start.

    Raises re.error for one that is none.
    """
    patterns = [re.compile(pattern) for pattern in exclude]
    wanted: list[Update] = []
    left: list[Update] = []
    for update in updates:
        excluded = any(pattern.match(update.package) for pattern in patterns)
        (left if excluded or (security_only and not update.security) else wanted).append(update)
    return Split(tuple(wanted), tuple(left))


def newest(kernels: Iterable[str]) -> str:
    """Return the newest of kernels' releases, empty for none: numbers count as numbers."""

    def key(release: str) -> list[tuple[int, int, str]]:
        return [
            (1, int(number), "") if number else (0, 0, text) for number, text in _VERSION.findall(release)
        ]

    return max(kernels, key=key, default="")


def outdated(maps: Mapping[str, str], units: Mapping[str, str]) -> list[str]:
    """Return the units that still use a library or program whose file was replaced.

    ``maps`` has /proc/<pid>/maps by process, ``units`` its /proc/<pid>/cgroup.
    """
    found = set()
    for process, text in maps.items():
        gone = re.search(r" /(usr|lib|opt)\S*( \(deleted\))$", text, re.MULTILINE)
        unit = re.search(r"([^/\s]+\.(?:service|scope))(?:/\S*)?$", units.get(process, ""), re.MULTILINE)
        if gone and unit:
            found.add(unit[1])
    return sorted(found)


def restarts(stale: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return which units are restarted, and which wait for their own runbook or a reboot."""
    units = list(stale)
    return [unit for unit in units if not KEPT.match(unit)], [unit for unit in units if KEPT.match(unit)]


def figures(security: int, other: int, reboot: bool, complete_at: float) -> str:
    """Return the figures for Prometheus. ``complete_at`` is when nothing waited last (seconds since 1970)."""
    lines = [
        "# HELP stationkeeper_updates_pending Updates that wait, as the last security_patch left them",
        "# TYPE stationkeeper_updates_pending gauge",
        f'stationkeeper_updates_pending{{scope="security"}} {security}',
        f'stationkeeper_updates_pending{{scope="other"}} {other}',
        "# HELP stationkeeper_updates_reboot_required 1 when updates wait for a reboot",
        "# TYPE stationkeeper_updates_reboot_required gauge",
        f"stationkeeper_updates_reboot_required {int(reboot)}",
        "# HELP stationkeeper_updates_complete_timestamp_seconds When no security update waited last",
        "# TYPE stationkeeper_updates_complete_timestamp_seconds gauge",
        f"stationkeeper_updates_complete_timestamp_seconds {complete_at:.0f}",
    ]
    return "".join(f"{line}\n" for line in lines)


def complete_at(text: str) -> float:
    """Return when nothing waited last, by figures that `figures` wrote; 0 when they do not say."""
    found = re.search(r"^stationkeeper_updates_complete_timestamp_seconds (\d+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0
