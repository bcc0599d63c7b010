"""What the figures of the hot tier mean. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from stationkeeper.hot_tier.compare import Comparison
from stationkeeper.hot_tier.look import Look
from stationkeeper.telemetry.source import TelemetryError

_MIB = 2**20
# Below this a server's own overhead dominates, and the ratio says nothing.
_FRAGMENTATION_FROM = 100 * _MIB
_FRAGMENTATION = 1.5
_NAMED = 3


@dataclass(frozen=True)
class Limits:
    """When the hot tier is degraded, and when critical. Ages in seconds, shares in percent, sizes in MiB."""

    max_age_s: float = 300.0
    critical_age_s: float = 3600.0
    max_memory_percent: float = 80.0
    critical_memory_percent: float = 95.0
    min_hit_percent: float = 90.0
    min_lookups: int = 1000
    big_key_mib: float = 64.0
    max_missing_percent: float = 1.0

    def __post_init__(self) -> None:
        """Refuse limits in the wrong order."""
        for mild, hard in (
            ("max_age_s", "critical_age_s"),
            ("max_memory_percent", "critical_memory_percent"),
        ):
            values = asdict(self)
            if not 0 < values[mild] <= values[hard]:
                raise TelemetryError(
                    f"{mild} is {values[mild]:g}: above 0, at most {hard} ({values[hard]:g})"
                )


@dataclass(frozen=True)
class Check:
    """One answer in the words of a health check: ok, degraded or critical."""

    name: str
    state: str
    message: str


def judge(look: Look, limits: Limits) -> list[Check]:
    """Return one check for each thing that was looked at."""
    return [
        _refreshed(look, limits),
        _equality(look.devices, limits),
        _memory(look, limits),
        _hit_rate(look, limits),
        _keys(look, limits),
    ]


def lines(look: Look, checks: Iterable[Check]) -> list[str]:
    """Return the checks and the figures for a terminal."""
    server = look.server
    found = [f"{one.state:<8}  {one.name:<9}  {one.message}" for one in checks]
    per_point = look.bytes_per_point
    found.append(
        f"Redis {server.version}: {server.connected_clients} clients, {server.expired_keys} keys expired,"
        f" {server.evicted_keys} evicted, fragmentation {server.fragmentation:g}"
    )
    for name, one in look.patterns.items():
        if one.keys:
            each = f", {per_point:.0f} bytes a point" if name == "timeseries" and per_point else ""
            found.append(f"{name}: {one.keys} keys, {one.bytes / _MIB:.2f} MiB{each}")
    found.append(f"not of the hot tier: {look.other_keys} keys")
    return found + [f"{size / _MIB:8.2f} MiB  {key}" for key, size in look.biggest]


def _refreshed(look: Look, limits: Limits) -> Check:
    if look.age_s is None:
        return Check("refreshed", "critical", "never filled, or expired: run cache_refresh")
    message = f"{look.age_s:.0f} s ago, limit {limits.max_age_s:g} s"
    if look.age_s <= limits.max_age_s:
        return Check("refreshed", "ok", message)
    state = "critical" if look.age_s > limits.critical_age_s else "degraded"
    return Check("refreshed", state, f"{message}: look at the job cache_refresh on the hub")


def _equality(devices: Sequence[Comparison], limits: Limits) -> Check:
    wrong = [f"{one.device} has {one.wrong[0]}" for one in devices if one.wrong]
    empty = [one.device for one in devices if one.rows and not one.points]
    behind = [one for one in devices if one.missing_percent > limits.max_missing_percent]
    if wrong or empty:
        told = [*wrong, *(f"{name} has no point at all" for name in empty)]
        return Check("equality", "critical", f"{_some(told)}: run cache_refresh with force")
    if behind:
        told = [f"{one.device} lacks {one.rows - one.points} of {one.rows} points" for one in behind]
        return Check("equality", "degraded", f"{_some(told)}: run cache_refresh")
    points, lacking = sum(one.points for one in devices), sum(one.rows - one.points for one in devices)
    late = f", {lacking} late rows come with the next refresh" if lacking else ""
    return Check(
        "equality", "ok", f"{points} points of {len(devices)} devices are those of the database{late}"
    )


def _memory(look: Look, limits: Limits) -> Check:
    server = look.server
    used = f"{server.used_memory / _MIB:.1f} MiB used"
    if not server.maxmemory:
        return Check("memory", "degraded", f"{used}, no maxmemory: Redis may take all of the host's. Set one")
    percent = 100 * server.used_memory / server.maxmemory
    message = f"{used} of {server.maxmemory / _MIB:.1f} ({percent:.0f} %)"
    if percent > limits.max_memory_percent:
        state = "critical" if percent > limits.critical_memory_percent else "degraded"
        return Check("memory", state, f"{message}: raise redis_maxmemory, or remove big keys")
    if server.evicted_keys:
        return Check(
            "memory", "degraded", f"{message}; {server.evicted_keys} keys were evicted: use noeviction"
        )
    if server.policy != "noeviction":
        return Check(
            "memory", "degraded", f"{message}; policy {server.policy} drops series unasked: use noeviction"
        )
    if server.used_memory > _FRAGMENTATION_FROM and server.fragmentation > _FRAGMENTATION:
        return Check(
            "memory", "degraded", f"{message}, fragmentation {server.fragmentation:g}: restart Redis"
        )
    return Check("memory", "ok", message)


def _hit_rate(look: Look, limits: Limits) -> Check:
    sampled = look.server.sampled
    recent = sampled is not None and sampled.lookups >= limits.min_lookups
    hits, when = look.server.since_start, "since the start"
    if recent and sampled:
        hits, when = sampled, "now"
    elif look.readers is not None:
        hits, when = look.readers, "between refreshes"
    if hits.percent is None or hits.lookups < limits.min_lookups:
        return Check("hit rate", "ok", f"too few look-ups to judge: {hits.lookups} {when}")
    message = f"{hits.percent:.1f} % of {hits.lookups} look-ups {when}, target {limits.min_hit_percent:g} %"
    return Check("hit rate", "ok" if hits.percent >= limits.min_hit_percent else "degraded", message)


def _keys(look: Look, limits: Limits) -> Check:
    forever = [
        f"{one.without_ttl} {name} keys without TTL" for name, one in look.patterns.items() if one.without_ttl
    ]
    big = [
        f"{key} takes {size / _MIB:.1f} MiB" for key, size in look.biggest if size > limits.big_key_mib * _MIB
    ]
    if forever or big:
        advice = "run cache_refresh" if forever else "look at the cadence of these devices"
        return Check("keys", "degraded", f"{_some([*forever, *big])}: {advice}")
    number = sum(one.keys for one in look.patterns.values())
    return Check("keys", "ok", f"{number} keys, all with a TTL, none above {limits.big_key_mib:g} MiB")


def _some(parts: Sequence[str]) -> str:
    more = f" and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
    return ", ".join(parts[:_NAMED]) + more
