"""The figures of the hot tier, and what they mean."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import redis

from stationkeeper.hot_tier import cached
from stationkeeper.hot_tier.compare import Comparison, compare
from stationkeeper.hot_tier.connection import connected
from stationkeeper.hot_tier.keys import Names
from stationkeeper.hot_tier.lookups import Hits, counted, of_readers
from stationkeeper.jobs.interface import RedisSettings
from stationkeeper.telemetry.source import TelemetryError, changing, parse_time

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

_STATEMENT_TIMEOUT_S = 60.0
_BATCH = 500


@dataclass(frozen=True)
class Question:
    """What to look at.

    ``sample_s``: seconds over which the hit rate is measured, 0 for not at all. ``devices``: globs over
    the names of those that are compared with the database, none for all.
    """

    system: str
    schema: str = "flux"
    sample_s: float = 2.0
    biggest: int = 5
    devices: Sequence[str] = ()
    # Rows younger than this, at the time of the last refresh, may have been on their way.
    settle_s: float = 60.0


@dataclass(frozen=True)
class Server:
    """What Redis says of itself; sizes in bytes, ``maxmemory`` 0 for no limit."""

    version: str
    used_memory: int
    maxmemory: int
    policy: str
    fragmentation: float
    evicted_keys: int
    expired_keys: int
    connected_clients: int
    since_start: Hits
    sampled: Hits | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        sampled = self.sampled.as_dict() if self.sampled else None
        return asdict(self) | {"since_start": self.since_start.as_dict(), "sampled": sampled}


@dataclass(frozen=True)
class Pattern:
    """The keys of one kind: how many, their bytes, and how many would stay for ever."""

    keys: int = 0
    bytes: int = 0
    without_ttl: int = 0


@dataclass(frozen=True)
class Look:
    """All figures. ``age_s`` is None when the cache was never refreshed as a whole.

    ``readers`` are the look-ups without those of the refresh, None where they were not noted yet.
    """

    server: Server
    readers: Hits | None
    age_s: float | None
    patterns: Mapping[str, Pattern]
    other_keys: int
    biggest: Sequence[tuple[str, int]]
    devices: Sequence[Comparison]

    @property
    def bytes_per_point(self) -> float | None:
        """What a point of a series takes; None without one."""
        points = sum(one.points for one in self.devices)
        return self.patterns["timeseries"].bytes / points if points else None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "server": self.server.as_dict(),
            "readers": self.readers.as_dict() if self.readers else None,
            "age_s": self.age_s,
            "patterns": {name: asdict(one) for name, one in self.patterns.items()},
            "other_keys": self.other_keys,
            "biggest": [{"key": key, "bytes": size} for key, size in self.biggest],
            "bytes_per_point": self.bytes_per_point,
            "devices": [one.as_dict() for one in self.devices],
        }


def look(
    connection: Connection,
    settings: RedisSettings,
    question: Question,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Look:
    """Ask Redis and the database. Writes nothing. Raises HotTierError or TelemetryError."""
    names = Names(question.system)
    with connected(settings) as client:
        # Before the figures: what it says of look-ups must not be younger than they are.
        stamp: Any = client.hgetall(names.refreshed)
        # Then at once, so that the questions that follow do not count as look-ups.
        server = figures(client, question.sample_s, sleep)
        refreshed = _refreshed(stamp)
        patterns, sizes, total = _keys(client, names)
        with changing(connection, timeout_s=_STATEMENT_TIMEOUT_S) as cursor:
            cursor.execute("SELECT now()")
            ((now,),) = cursor.fetchall()
            through = (refreshed or now) - timedelta(seconds=question.settle_s)
            devices = compare(
                *(cursor, client, names), schema=question.schema, through=through, patterns=question.devices
            )
        return Look(
            server=server,
            readers=of_readers(stamp, server.since_start),
            age_s=(now - refreshed).total_seconds() if refreshed else None,
            patterns=patterns,
            other_keys=max(total - len(sizes), 0),
            biggest=sorted(sizes.items(), key=lambda one: (-one[1], one[0]))[: question.biggest],
            devices=devices,
        )


def figures(client: redis.Redis, sample_s: float, sleep: Callable[[float], None] = time.sleep) -> Server:
    """Return what Redis says of itself; the hit rate is measured over some seconds, too."""
    info: Any = client.info()
    start = Hits(info["keyspace_hits"], info["keyspace_misses"])
    sampled = None
    if sample_s > 0:
        sleep(sample_s)
        later = counted(client)
        sampled = Hits(later.hits - start.hits, later.misses - start.misses)
    return Server(
        version=str(info["redis_version"]),
        used_memory=info["used_memory"],
        maxmemory=info["maxmemory"],
        policy=info["maxmemory_policy"],
        fragmentation=float(info["mem_fragmentation_ratio"]),
        evicted_keys=info["evicted_keys"],
        expired_keys=info["expired_keys"],
        connected_clients=info["connected_clients"],
        since_start=start,
        sampled=sampled,
    )


def _refreshed(stamp: Mapping[str, str]) -> datetime | None:
    try:
        return parse_time(stamp["when"]).astimezone(UTC)
    except (KeyError, TelemetryError):
        return None


def _keys(client: redis.Redis, names: Names) -> tuple[dict[str, Pattern], dict[str, int], int]:
    """Return the figures of each kind of key, the size of each key in bytes, and the number of all keys."""
    number: Counter[str] = Counter()
    without: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    size_of: Counter[str] = Counter()
    keys = cached.own_keys(client, names)
    for first in range(0, len(keys), _BATCH):
        batch = keys[first : first + _BATCH]
        pipeline = client.pipeline(transaction=False)
        for key in batch:
            pipeline.ttl(key)
            pipeline.memory_usage(key)
        answers = iter(pipeline.execute())
        for key in batch:
            ttl, size = next(answers), next(answers)
            if size is None:
                continue  # it went in between
            kind = names.pattern_of(key) or ""
            sizes[key] = size
            number[kind] += 1
            size_of[kind] += size
            without[kind] += ttl == -1
    total: Any = client.dbsize()
    return (
        {kind: Pattern(number[kind], size_of[kind], without[kind]) for kind in names.patterns()},
        sizes,
        total,
    )
