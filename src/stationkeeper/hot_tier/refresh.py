"""Make the hot tier agree with the database."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import redis

from stationkeeper.hot_tier import cached, rows
from stationkeeper.hot_tier.connection import HotTierError, connected
from stationkeeper.hot_tier.keys import Names, moment
from stationkeeper.hot_tier.lookups import Hits, counted, noted, of_readers
from stationkeeper.jobs.interface import RedisSettings
from stationkeeper.telemetry.source import changing, rfc3339, snapshot

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

_STATEMENT_TIMEOUT_S = 120.0
# The hub's timer and an operator may meet; a refresh seldom takes longer.
_LOCK_WAIT_S = 60.0


@dataclass(frozen=True)
class Request:
    """What to refresh. ``devices`` are globs over names, none for all; ``force`` makes everything anew."""

    system: str
    schema: str = "flux"
    devices: Sequence[str] = ()
    force: bool = False


@dataclass
class Change:
    """One device: points that are in the cache now, and what was (or would be) added and removed."""

    device: str
    points: int
    added: int = 0
    removed: int = 0
    latest: bool = False
    built: bool = False

    @property
    def changed(self) -> bool:
        """Whether a reader sees something else than before."""
        return bool(self.added or self.removed or self.latest)


@dataclass(frozen=True)
class Outcome:
    """What a refresh did, or would do when it was only asked for."""

    run: str
    when: datetime
    devices: list[Change]
    removed_keys: list[str]
    readers: Hits

    @property
    def changed(self) -> bool:
        """Whether a reader sees something else; the last hour's figures and the stamp do not count."""
        return bool(self.removed_keys) or any(one.changed for one in self.devices)

    @property
    def points(self) -> int:
        """Points in the cache."""
        return sum(one.points for one in self.devices)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "run": self.run,
            "when": rfc3339(self.when),
            "points": self.points,
            "added": sum(one.added for one in self.devices),
            "removed": sum(one.removed for one in self.devices),
            "removed_keys": self.removed_keys,
            "devices": [asdict(one) for one in self.devices],
        }

    def lines(self) -> list[str]:
        """Return one line for each device and key that changes."""
        found = [
            f"{one.device}: {one.points} points, +{one.added} -{one.removed}"
            f"{', newest row' if one.latest else ''}{', built anew' if one.built else ''}"
            for one in self.devices
            if one.changed or one.built
        ]
        return found + [f"{key}: removed" for key in self.removed_keys]


def refresh(
    connection: Connection, settings: RedisSettings, request: Request, *, dry_run: bool = False
) -> Outcome:
    """Bring the newest rows, the last 24 hours and the figures of the last hour into Redis.

    Incremental: rows after the last cached one, then every hour whose number of points is not the database's,
    whatever the reason. A series that is not there, or in another form, is made anew. Raises HotTierError or
    TelemetryError; what was there before can be read all the time, and the next run mends what this one left.
    """
    with (
        connected(settings) as client,
        _alone(connection, request.system, dry_run),
        snapshot(connection, timeout_s=_STATEMENT_TIMEOUT_S) as cursor,
    ):
        return _Run(cursor, client, request, dry_run).do()


@contextmanager
def _alone(connection: Connection, system: str, dry_run: bool) -> Iterator[None]:
    """Keep two refreshes apart. The database frees the lock of one that was killed."""
    import psycopg2

    if dry_run:
        yield
        return
    key = ("stationkeeper hot tier", system)
    with changing(connection, timeout_s=_STATEMENT_TIMEOUT_S) as cursor:
        cursor.execute("SET LOCAL lock_timeout = %s", (f"{int(_LOCK_WAIT_S * 1000)}ms",))
        try:
            cursor.execute("SELECT pg_advisory_lock(hashtext(%s), hashtext(%s))", key)
        except psycopg2.errors.LockNotAvailable:
            raise HotTierError(
                f"another refresh of {system} has been running for over {_LOCK_WAIT_S:g} s: run again later"
            ) from None
    try:
        yield
    finally:
        if not connection.closed:
            connection.rollback()
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(hashtext(%s), hashtext(%s))", key)
            connection.rollback()


class _Run:
    def __init__(self, cursor: Cursor, client: redis.Redis, request: Request, dry_run: bool) -> None:
        self.cursor, self.client, self.request, self.dry_run = cursor, client, request, dry_run
        self.names = Names(request.system)
        before = counted(client)
        stamp: Any = client.hgetall(self.names.refreshed)
        self.stamp: dict[str, str] = stamp
        self.readers = of_readers(self.stamp, before) or Hits(0, 0)
        self.run = uuid.uuid4().hex[:12]
        self.window = rows.window(cursor)
        self.sources = rows.sources(cursor, request.schema, request.devices)

    def do(self) -> Outcome:
        schema = self.request.schema
        removed = self._remove_stale()
        wanted = rows.counts(self.cursor, schema, self.sources, self.window)
        newest = rows.newest(self.cursor, schema, self.sources, self.window.end)
        here = cached.series(self.client, self.names, wanted, self.window)
        seen = cached.latest(self.client, self.names, list(wanted))
        changes: list[Change] = []
        for source in self.sources:
            name = source.name
            want, have = wanted[name], here[name]
            change = Change(name, sum(want.values()), latest=newest[name] != seen[name])
            # A series in another form cannot be mended: its points would be read wrongly.
            other = not have.total or seen[name].get("fields") != ",".join(source.fields)
            change.built = change.points > 0 and (self.request.force or other)
            if self.dry_run:
                change.added, change.removed = _difference(want, have)
            elif change.built:
                change.added, change.removed = self._build(source, newest[name])
            else:
                change.added, change.removed = self._mend(source, want)
                cached.replace_hash(self.client, self.names.latest(name), newest[name])
            changes.append(change)
        if not self.dry_run:
            self._finish(changes)
        return Outcome(self.run, self.window.end, changes, removed, self.readers)

    def _remove_stale(self) -> list[str]:
        """Remove the keys of devices that are not in service any more, and what killed runs left."""
        current = {one.name for one in self.sources}
        patterns = self.request.devices or ("*",)
        stale = []
        for key in cached.own_keys(self.client, self.names):
            device = self.names.device_of(key)
            if self.names.pattern_of(key) == "building" or (
                device is not None
                and device not in current
                and any(fnmatchcase(device, one) for one in patterns)
            ):
                stale.append(key)
        if not self.dry_run:
            for first in range(0, len(stale), cached.BATCH):
                self.client.unlink(*stale[first : first + cached.BATCH])
        return stale

    def _build(self, source: rows.Source, latest: Mapping[str, str]) -> tuple[int, int]:
        key = self.names.timeseries(source.name)
        row = (self.names.latest(source.name), latest)
        with self._stream(source, self.window.start, self.window.end) as batches:
            return cached.build(self.client, key, self.names.building(key, self.run), batches, row)

    def _mend(self, source: rows.Source, want: Mapping[datetime, int]) -> tuple[int, int]:
        """Trim, append what is newer than the last point, then take the hours that still differ."""
        key = self.names.timeseries(source.name)
        removed = cached.trim(self.client, key, self.window)
        added = 0
        last = cached.last_score(self.client, key)
        since = self.window.start if last is None else max(self.window.start, moment(last))
        with self._stream(source, since, self.window.end) as batches:
            for points in batches:
                added += cached.append(self.client, key, points)
        have = cached.series(self.client, self.names, [source.name], self.window)[source.name].hours
        for start, end in self.window.hours():
            hour = start.replace(minute=0, second=0, microsecond=0)
            more = want.get(hour, 0) - have.get(hour, 0)
            if more:
                with self._stream(source, start, end) as batches:
                    points = [point for batch in batches for point in batch]
                cached.replace_span(self.client, key, (start, end), points)
                added, removed = added + max(more, 0), removed + max(-more, 0)
        return added, removed

    def _stream(
        self, source: rows.Source, start: datetime, end: datetime
    ) -> closing[Generator[cached.Points, None, None]]:
        return closing(rows.stream(self.cursor, self.request.schema, source, start, end))

    def _finish(self, changes: Sequence[Change]) -> None:
        """Count once more, and write the stamp last of all; a part of the devices keeps the time in it."""
        here = cached.totals(self.client, self.names, [one.device for one in changes])
        wrong = [one.device for one in changes if here[one.device] != one.points]
        if wrong:
            raise HotTierError(
                f"the series of {', '.join(wrong)} changed while they were written: something else writes"
                " these keys, or Redis evicts (its maxmemory-policy must be noeviction). Run again"
            )
        if not self.request.devices:
            figures = rows.metrics(self.cursor, self.request.schema, self.sources, self.window.end)
            cached.replace_hash(self.client, self.names.metrics, figures)
            self.stamp = {
                "when": rfc3339(self.window.end),
                "rows": str(sum(one.points for one in changes)),
                "run": self.run,
            }
        if self.stamp:
            lookups = noted(self.readers, counted(self.client))
            cached.replace_hash(self.client, self.names.refreshed, self.stamp | lookups)


def _difference(want: Mapping[datetime, int], have: cached.Series) -> tuple[int, int]:
    hours = [want.get(hour, 0) - have.hours.get(hour, 0) for hour in {*want, *have.hours}]
    return sum(max(one, 0) for one in hours), sum(max(-one, 0) for one in hours) + have.outside
