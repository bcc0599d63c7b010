"""The hit rate of the readers: what Redis counts without the refresh's own look-ups, which nearly all hit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis

# Above this both numbers are halved: last month's look-ups must not hide that today's miss.
_REMEMBERED = 100_000


@dataclass(frozen=True)
class Hits:
    """Look-ups of keys that were there, and that were not."""

    hits: int
    misses: int

    @property
    def lookups(self) -> int:
        """All of them."""
        return self.hits + self.misses

    @property
    def percent(self) -> float | None:
        """Share of hits; None without a look-up."""
        return 100 * self.hits / self.lookups if self.lookups else None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"lookups": self.lookups, "percent": self.percent}


def counted(client: redis.Redis) -> Hits:
    """Return everybody's look-ups since Redis started."""
    stats: Any = client.info("stats")
    return Hits(stats["keyspace_hits"], stats["keyspace_misses"])


def of_readers(stamp: Mapping[str, str], now: Hits) -> Hits | None:
    """Return the readers' look-ups up to now from what the last refresh noted; None if it noted nothing."""
    try:
        known = Hits(int(stamp["reader_hits"]), int(stamp["reader_misses"]))
        then = Hits(int(stamp["counted_hits"]), int(stamp["counted_misses"]))
    except (KeyError, ValueError):
        return None
    if now.hits < then.hits or now.misses < then.misses:
        then = Hits(0, 0)  # Redis has started anew
    return Hits(known.hits + now.hits - then.hits, known.misses + now.misses - then.misses)


def noted(readers: Hits, now: Hits) -> dict[str, str]:
    """Return the fields of the stamp from which the next one goes on."""
    if readers.lookups > _REMEMBERED:
        readers = Hits(readers.hits // 2, readers.misses // 2)
    values = {
        "reader_hits": readers.hits,
        "reader_misses": readers.misses,
        "counted_hits": now.hits,
        "counted_misses": now.misses,
    }
    return {name: str(value) for name, value in values.items()}
