"""What Redis has of the hot tier, and writes to it that a reader sees as a whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import redis

from stationkeeper.hot_tier.keys import BUILDING_TTL_S, TTL_S, Names, milliseconds
from stationkeeper.hot_tier.rows import Window

# Members sent at once: some megabytes, and some milliseconds in which the server does nothing else.
BATCH = 5000
_SCAN = 1000

Points = Sequence[tuple[int, str]]


@dataclass(frozen=True)
class Series:
    """A cached series: points by full hour within the window, and those outside of it."""

    hours: Mapping[datetime, int]
    outside: int

    @property
    def total(self) -> int:
        """All of its points."""
        return sum(self.hours.values()) + self.outside


def scan(client: redis.Redis, pattern: str) -> Iterator[list[str]]:
    """Yield the keys that match a glob, in batches; without KEYS, which stops the server meanwhile."""
    cursor = 0
    while True:
        answer: Any = client.scan(cursor, match=pattern, count=_SCAN)
        cursor, found = answer
        if found:
            yield found
        if cursor == 0:
            return


def own_keys(client: redis.Redis, names: Names) -> list[str]:
    """Return every key of the hot tier, sorted."""
    found = (key for pattern in names.patterns().values() for keys in scan(client, pattern) for key in keys)
    return sorted({key for key in found if names.pattern_of(key) is not None})


def series(client: redis.Redis, names: Names, devices: Iterable[str], span: Window) -> dict[str, Series]:
    """Return what is cached of each device."""
    hours = [(start, milliseconds(start), milliseconds(end)) for start, end in span.hours()]
    found: dict[str, Series] = {}
    for name in devices:
        key = names.timeseries(name)
        pipeline = client.pipeline(transaction=False)
        pipeline.zcard(key)
        for _, low, high in hours:
            pipeline.zcount(key, low, f"({high}")
        total, *numbers = pipeline.execute()
        by_hour = {
            start.replace(minute=0, second=0, microsecond=0): number
            for (start, _, _), number in zip(hours, numbers, strict=True)
            if number
        }
        found[name] = Series(by_hour, total - sum(numbers))
    return found


def totals(client: redis.Redis, names: Names, devices: Sequence[str]) -> dict[str, int]:
    """Return how many points are cached of each device."""
    pipeline = client.pipeline(transaction=False)
    for name in devices:
        pipeline.zcard(names.timeseries(name))
    return dict(zip(devices, pipeline.execute(), strict=True))


def latest(client: redis.Redis, names: Names, devices: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the cached newest row of each device; {} where there is none."""
    pipeline = client.pipeline(transaction=False)
    for name in devices:
        pipeline.hgetall(names.latest(name))
    return dict(zip(devices, pipeline.execute(), strict=True))


def replace_hash(client: redis.Redis, key: str, values: Mapping[str, str]) -> None:
    """Set a hash to exactly these values at once; without values it is removed."""
    pipeline = client.pipeline()
    _replace(pipeline, key, values)
    pipeline.execute()


def append(client: redis.Redis, key: str, points: Points) -> int:
    """Add points and return how many were new."""
    pipeline = client.pipeline()
    _add(pipeline, key, points)
    pipeline.expire(key, TTL_S)
    added: int = pipeline.execute()[0]
    return added


def trim(client: redis.Redis, key: str, span: Window) -> int:
    """Remove a series' points outside of the window, prolong the life of the rest; return how many went."""
    pipeline = client.pipeline()
    pipeline.zremrangebyscore(key, "-inf", f"({milliseconds(span.start)}")
    pipeline.zremrangebyscore(key, milliseconds(span.end), "+inf")
    pipeline.expire(key, TTL_S)
    old, early, _ = pipeline.execute()
    removed: int = old + early
    return removed


def last_score(client: redis.Redis, key: str) -> int | None:
    """Return the milliseconds of a series' last point; None without one."""
    last: Any = client.zrange(key, -1, -1, withscores=True)
    return int(last[0][1]) if last else None


def replace_span(client: redis.Redis, key: str, span: tuple[datetime, datetime], points: Points) -> None:
    """Make a part of a series exactly these points, at once."""
    pipeline = client.pipeline()
    pipeline.zremrangebyscore(key, milliseconds(span[0]), f"({milliseconds(span[1])}")
    if points:
        _add(pipeline, key, points)
    pipeline.expire(key, TTL_S)
    pipeline.execute()


def build(
    client: redis.Redis,
    key: str,
    building: str,
    batches: Iterable[Points],
    latest: tuple[str, Mapping[str, str]],
) -> tuple[int, int]:
    """Make a series anew beside the one that is read, and put it in its place when it is whole.

    ``latest`` are key and values of the newest row. It is replaced together with the series: it says how the
    points are to be read. Returns how many points the new series has that the old one had not, and the other
    way round.
    """
    try:
        for points in batches:
            pipeline = client.pipeline()
            _add(pipeline, building, points)
            pipeline.expire(building, BUILDING_TTL_S)
            pipeline.execute()
        pipeline = client.pipeline(transaction=False)
        pipeline.zcard(key)
        pipeline.zcard(building)
        pipeline.zintercard(2, [key, building])
        old, new, same = pipeline.execute()
        pipeline = client.pipeline()
        # UNLINK first: RENAME would free the old one while everybody waits.
        pipeline.unlink(key)
        if new:
            pipeline.rename(building, key)
            pipeline.expire(key, TTL_S)
        _replace(pipeline, *latest)
        pipeline.execute()
    except BaseException:
        # A server that is full needs the room; one that is gone forgets by itself.
        with contextlib.suppress(redis.RedisError):
            client.unlink(building)
        raise
    return new - same, old - same


def _replace(pipeline: Any, key: str, values: Mapping[str, str]) -> None:
    pipeline.unlink(key)
    if values:
        pipeline.hset(key, mapping=dict(values))
        pipeline.expire(key, TTL_S)


def _add(pipeline: Any, key: str, points: Points) -> None:
    # Not zadd(): its mapping would be a third copy of every point.
    pipeline.execute_command("ZADD", key, *(part for point in points for part in point))
