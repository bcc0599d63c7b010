"""Whether the hot tier says what the database says: by other statements than a refresh uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import redis

from stationkeeper.hot_tier.keys import WINDOW, Names, decode, milliseconds
from stationkeeper.hot_tier.rows import Source, sources
from stationkeeper.telemetry.source import READINGS, TelemetryError, parse_time, rfc3339

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)

# Points of a device whose values are compared.
_SAMPLED = 20


@dataclass(frozen=True)
class Comparison:
    """One device: rows and points of the same span, and what is wrong besides."""

    device: str
    rows: int
    points: int
    latest: str
    wrong: tuple[str, ...]

    @property
    def missing_percent(self) -> float:
        """Share of the rows that the cache lacks."""
        return 100 * max(self.rows - self.points, 0) / self.rows if self.rows else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"wrong": list(self.wrong)}


def compare(
    cursor: Cursor,
    client: redis.Redis,
    names: Names,
    *,
    schema: str,
    through: datetime,
    patterns: Sequence[str] = (),
) -> list[Comparison]:
    """Compare the devices in service, from 24 hours before now until ``through``; all, or by pattern.

    Counts all rows and points, and compares the values of the newest row and of some points by chance. A row
    that came late, after the last refresh, is missing until the next one. Each statement has to see the
    database as it is then: a refresh in between may bring rows that an older state does not have.
    """
    cursor.execute("SELECT date_trunc('milliseconds', now())")
    ((now,),) = cursor.fetchall()
    span = (now - WINDOW, min(through.replace(microsecond=through.microsecond // 1000 * 1000), now))
    found: list[Comparison] = []
    for kind, table in READINGS.items():
        devices = [one for one in sources(cursor, schema, patterns) if one.type == kind]
        if devices:
            found += _Table(cursor, client, names, (schema, table), devices).compare(span)
    return sorted(found, key=lambda one: one.device)


class _Table:
    def __init__(
        self,
        cursor: Cursor,
        client: redis.Redis,
        names: Names,
        table: tuple[str, str],
        devices: Sequence[Source],
    ) -> None:
        self.cursor, self.client, self.names, self.table = cursor, client, names, table
        self.devices = devices
        self.columns = devices[0].columns

    def compare(self, span: tuple[datetime, datetime]) -> list[Comparison]:
        pipeline = self.client.pipeline(transaction=False)
        for one in self.devices:
            key = self.names.timeseries(one.name)
            pipeline.zcount(key, milliseconds(span[0]), f"({milliseconds(span[1])}")
            pipeline.zrandmember(key, _SAMPLED)
            pipeline.hgetall(self.names.latest(one.name))
        answers = iter(pipeline.execute())
        cached = {
            one.id: (next(answers), [_decoded(member, one) for member in next(answers)], next(answers))
            for one in self.devices
        }
        counted = self._counted(span)
        stored = self._stored(
            [(one, time) for one, (_, sample, latest) in cached.items() for time in _times(sample, latest)]
        )
        found = []
        for one in self.devices:
            points, sample, latest = cached[one.id]
            number, last = counted[one.id]
            wrong = [
                *self._wrong_latest(one, latest, last, stored),
                *_wrong_points(one, sample, stored),
            ]
            if points > number:
                wrong.append(f"{points - number} points that the database does not have")
            found.append(Comparison(one.name, number, points, latest.get("time", ""), tuple(wrong)))
        return found

    def _counted(self, span: tuple[datetime, datetime]) -> dict[str, tuple[int, datetime | None]]:
        from psycopg2 import sql

        self.cursor.execute(
            sql.SQL(
                "SELECT d.id::text, n.number, l.time FROM unnest(%(ids)s::uuid[]) AS d(id)"
                " CROSS JOIN LATERAL (SELECT count(*) AS number FROM {table} x WHERE x.device_id = d.id"
                " AND x.time >= %(start)s AND x.time < %(end)s) n"
                " LEFT JOIN LATERAL (SELECT x.time FROM {table} x WHERE x.device_id = d.id"
                " AND x.time < %(end)s ORDER BY x.time DESC LIMIT 1) l ON true"
            ).format(table=sql.Identifier(*self.table)),
            {"ids": [one.id for one in self.devices], "start": span[0], "end": span[1]},
        )
        return {identifier: (number, last) for identifier, number, last in self.cursor.fetchall()}

    def _stored(self, wanted: Sequence[tuple[str, datetime]]) -> dict[tuple[str, datetime], dict[str, Any]]:
        from psycopg2 import sql

        self.cursor.execute(
            sql.SQL(
                "SELECT x.device_id::text, x.time, {columns}"
                " FROM unnest(%s::uuid[], %s::timestamptz[]) AS d(id, time)"
                " JOIN {table} x ON x.device_id = d.id AND x.time = d.time"
            ).format(
                columns=sql.SQL(", ").join(sql.Identifier("x", one) for one in self.columns),
                table=sql.Identifier(*self.table),
            ),
            ([one for one, _ in wanted], [time for _, time in wanted]),
        )
        return {
            (identifier, time): dict(zip(self.columns, values, strict=True))
            for identifier, time, *values in self.cursor.fetchall()
        }

    def _wrong_latest(
        self, device: Source, latest: Mapping[str, str], last: datetime | None, stored: Mapping[Any, Any]
    ) -> list[str]:
        if not latest:
            return [f"no newest row, the database has one of {rfc3339(last)}"] if last else []
        time = _time(latest)
        row = stored.get((device.id, time))
        if time is None or row is None:
            return [f"a newest row of {latest.get('time')} that the database does not have"]
        if last is not None and time < last:
            return [f"a newest row of {latest['time']}, the database has one of {rfc3339(last)}"]
        other = [name for name in self.columns if not _same(latest.get(name, ""), row[name])]
        return [f"a newest row with another {', '.join(other)}"] if other else []


_Point = tuple[datetime, dict[str, float | None]]


def _decoded(member: str, device: Source) -> _Point | None:
    """Return a point; None for a member that is none, which only somebody else can have written."""
    try:
        return decode(member, device.fields)
    except (ValueError, OverflowError):
        return None


def _wrong_points(device: Source, sample: Sequence[_Point | None], stored: Mapping[Any, Any]) -> list[str]:
    wrong = 0
    for point in sample:
        row = stored.get((device.id, point[0])) if point else None
        wrong += (
            point is None
            or row is None
            or any(
                not _same("" if value is None else repr(value), row[name]) for name, value in point[1].items()
            )
        )
    return [f"{wrong} of {len(sample)} points by chance with other values"] if wrong else []


def _times(sample: Sequence[_Point | None], latest: Mapping[str, str]) -> list[datetime]:
    time = _time(latest)
    return [point[0] for point in sample if point] + ([time] if time else [])


def _time(latest: Mapping[str, str]) -> datetime | None:
    try:
        return parse_time(latest["time"])
    except (KeyError, TelemetryError):
        return None


def _same(text: str, value: Any) -> bool:
    if value is None or text == "":
        return value is None and text == ""
    if isinstance(value, str):
        return text == value
    try:
        number = float(text)
    except ValueError:
        return False
    # Not a number is itself here.
    return number == float(value) or (number != number and value != value)  # noqa: PLR0124
