"""Rows that are there and cannot be trusted: frozen values, lacking metrics, values that cannot be true.

They are kinds of their own beside gaps. Nothing is changed or deleted: rows with impossible values can be
copied to the quarantine (`quarantine`), where somebody decides about them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stationkeeper.profiles import Profile, ProfileError, load_profile
from stationkeeper.telemetry.gaps import DEFAULT_K, DEFAULT_SETTLE_S, settle
from stationkeeper.telemetry.limits import Range, ranges, required
from stationkeeper.telemetry.source import (
    READINGS,
    REGISTRY,
    TelemetryError,
    aware,
    rfc3339,
    snapshot,
)
from stationkeeper.telemetry.sweep import Window, windows

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

#: The kinds of findings. ``future`` are rows stamped after now: their time cannot be true.
KINDS = ("stale", "lacking", "impossible", "future")
#: As many rows with the same counter in a row are frozen; a slow counter may stand still for two or three.
DEFAULT_STALE_ROWS = 5
#: More impossible rows than this are counted, but not returned or copied: something else is wrong then.
MAX_ROWS = 10_000

_ROWS = """
FROM unnest(%(ids)s::uuid[], %(a)s::timestamptz[], %(b)s::timestamptz[]) AS w (id, a, b)
JOIN {readings} x ON x.device_id = w.id AND x.time >= w.a AND x.time < w.b
 AND x.time >= %(first)s AND x.time < %(last)s
"""
_STALE = """
SELECT id::text, min(time), max(time), count(*), min(value)::text FROM (
    SELECT id, time, value, count(*) FILTER (WHERE moved) OVER (PARTITION BY id ORDER BY time) AS island
    FROM (
        SELECT w.id, x.time, x.{counter} AS value,
               (x.{counter}, x.boot_id) IS DISTINCT FROM
               (lag(x.{counter}) OVER device, lag(x.boot_id) OVER device) AS moved
        {rows}
        WINDOW device AS (PARTITION BY w.id ORDER BY x.time)) AS compared
    WHERE value IS NOT NULL) AS islands
GROUP BY id, island HAVING count(*) >= %(stale_rows)s ORDER BY id, min(time)
"""
_LACKING = """
SELECT id::text, min(time), max(time), count(*), lacking FROM (
    SELECT id, time, lacking, count(*) FILTER (WHERE moved) OVER (PARTITION BY id ORDER BY time) AS island
    FROM (
        SELECT id, time, lacking,
               lacking IS DISTINCT FROM lag(lacking) OVER (PARTITION BY id ORDER BY time) AS moved
        FROM (
            SELECT w.id, x.time, array_remove(ARRAY[{flags}], NULL) AS lacking {rows}) AS flagged
    ) AS compared
    ) AS islands
WHERE cardinality(lacking) > 0 GROUP BY id, island, lacking ORDER BY id, min(time)
"""
# NaN is above every number here.
_IMPOSSIBLE = """
SELECT w.id::text, x.time, to_jsonb(x) {rows}
JOIN unnest(%(ids)s::uuid[], {arrays}) AS limits (id, {names}) ON limits.id = w.id
WHERE {tests} ORDER BY x.time, w.id LIMIT %(limit)s
"""
_FUTURE = """
SELECT x.device_id::text, x.time, to_jsonb(x) FROM {readings} x
WHERE x.time > now() + interval '1 minute' AND x.device_id = ANY (%(ids)s::uuid[])
ORDER BY x.time, x.device_id LIMIT %(limit)s
"""


@dataclass(frozen=True)
class Finding:
    """Rows of one device from ``start`` to ``end``, both included, that cannot be trusted, and why.

    ``row`` is the row itself for the kinds that are found row by row.
    """

    kind: str
    device_id: str
    device: str
    site: str
    start: datetime
    end: datetime
    rows: int
    reason: str
    row: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data with times as RFC 3339 text in UTC."""
        return {
            "kind": self.kind,
            "device": self.device,
            "site": self.site,
            "from": rfc3339(self.start),
            "to": rfc3339(self.end),
            "rows": self.rows,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class _Checked:
    """A device's window with what its profile and its registry row say about its values."""

    window: Window
    ranges: Mapping[str, Range]
    required: Sequence[str]


def validate(
    connection: Connection,
    start: datetime,
    end: datetime,
    *,
    kinds: Sequence[str] = KINDS,
    sites: Sequence[str] | None = None,
    stale_rows: int = DEFAULT_STALE_ROWS,
    settle_s: float = DEFAULT_SETTLE_S,
    schema: str = "flux",
    timeout_s: float = 300.0,
) -> list[Finding]:
    """Return what cannot be trusted of the rows in [start, end), by site, device and time.

    Raises TelemetryError for an unknown kind, a profile that is not there, and like `find_gaps`.
    """
    start, end = aware(start), aware(end)
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise TelemetryError(f"no kind {', '.join(unknown)}; kinds are {', '.join(KINDS)}")
    if stale_rows < 2:
        raise TelemetryError(f"stale_rows is {stale_rows}; it takes two rows to see that nothing moves")
    found: list[Finding] = []
    with snapshot(connection, timeout_s=timeout_s) as cursor:
        settled_to = settle(cursor, start, end, sites=sites, k=DEFAULT_K, settle_s=settle_s, schema=schema)
        for kind in READINGS:
            asked = windows(cursor, schema, kind, start, settled_to, sites=sites)
            devices = _checked(cursor, schema, kind, asked)
            if not devices:
                continue
            look = _Look(cursor, schema, kind, devices)
            if "stale" in kinds:
                found += look.stale("heartbeat", stale_rows) + look.stale("seq", stale_rows)
            if "lacking" in kinds:
                found += look.lacking()
            if "impossible" in kinds:
                found += look.impossible()
            if "future" in kinds:
                found += look.future()
    return sorted(found, key=lambda one: (one.site, one.device, one.start, one.kind, one.reason))


class _Look:
    """Looks at the rows of the devices of one type."""

    def __init__(self, cursor: Cursor, schema: str, kind: str, devices: Sequence[_Checked]) -> None:
        from psycopg2 import sql

        self._cursor = cursor
        self._devices = {one.window.device.id: one for one in devices}
        self._readings = sql.Identifier(schema, READINGS[kind])
        self._rows = sql.SQL(_ROWS).format(readings=self._readings)
        self._values: dict[str, Any] = {
            "ids": [one.window.device.id for one in devices],
            "a": [one.window.start for one in devices],
            "b": [one.window.end for one in devices],
            "first": min(one.window.start for one in devices),
            "last": max(one.window.end for one in devices),
            "limit": MAX_ROWS,
        }

    def stale(self, counter: str, stale_rows: int) -> list[Finding]:
        """Return stretches in which rows came and a counter stood still."""
        from psycopg2 import sql

        query = sql.SQL(_STALE).format(counter=sql.Identifier(counter), rows=self._rows)
        self._cursor.execute(query, {**self._values, "stale_rows": stale_rows})
        return [
            self._finding(
                "stale", device, (start, end), rows=rows, reason=f"{counter} stands still at {value}"
            )
            for device, start, end, rows, value in self._cursor.fetchall()
        ]

    def lacking(self) -> list[Finding]:
        """Return stretches in which a metric is lacking that the device's profile samples."""
        from psycopg2 import sql

        found = []
        for columns in {tuple(one.required) for one in self._devices.values()}:
            flags = sql.SQL(", ").join(
                sql.SQL("CASE WHEN x.{} IS NULL THEN {} END").format(sql.Identifier(name), sql.Literal(name))
                for name in columns
            )
            query = sql.SQL(_LACKING).format(flags=flags, rows=self._rows)
            alike = [one for one in self._devices.values() if tuple(one.required) == columns]
            values = {
                "ids": [one.window.device.id for one in alike],
                "a": [one.window.start for one in alike],
                "b": [one.window.end for one in alike],
            }
            self._cursor.execute(query, {**self._values, **values})
            found += [
                self._finding(
                    "lacking", device, (start, end), rows=rows, reason=f"without {', '.join(lacking)}"
                )
                for device, start, end, rows, lacking in self._cursor.fetchall()
            ]
        return found

    def impossible(self) -> list[Finding]:
        """Return rows with a value outside of what the device can have."""
        from psycopg2 import sql

        columns = sorted({column for one in self._devices.values() for column in one.ranges})
        values, names, arrays, tests = dict(self._values), [], [], []
        for number, column in enumerate(columns):
            limits = [one.ranges.get(column, (None, None)) for one in self._devices.values()]
            for part, side in ((0, "low"), (1, "high")):
                key = f"{side}_{number}"
                values[key] = [limit[part] for limit in limits]
                names.append(sql.Identifier(key))
                arrays.append(sql.SQL("{}::float8[]").format(sql.Placeholder(key)))
            tests.append(
                sql.SQL("x.{column} < limits.{low} OR x.{column} > limits.{high}").format(
                    column=sql.Identifier(column),
                    low=sql.Identifier(f"low_{number}"),
                    high=sql.Identifier(f"high_{number}"),
                )
            )
        query = sql.SQL(_IMPOSSIBLE).format(
            rows=self._rows,
            arrays=sql.SQL(", ").join(arrays),
            names=sql.SQL(", ").join(names),
            tests=sql.SQL(" OR ").join(tests),
        )
        self._cursor.execute(query, values)
        return [
            self._finding("impossible", device, (time, time), row=row, reason=self._why(device, row))
            for device, time, row in self._cursor.fetchall()
        ]

    def future(self) -> list[Finding]:
        """Return rows stamped more than a minute after now."""
        from psycopg2 import sql

        self._cursor.execute(sql.SQL(_FUTURE).format(readings=self._readings), self._values)
        return [
            self._finding(
                "future", device, (time, time), row=row, reason="stamped after the moment it was read"
            )
            for device, time, row in self._cursor.fetchall()
        ]

    def _why(self, device: str, row: Mapping[str, Any]) -> str:
        """Name the values of a row that are outside of their range."""
        wrong = []
        for column, (low, high) in sorted(self._devices[device].ranges.items()):
            value = row.get(column)
            if value is not None and not low <= float(value) <= high:
                wrong.append(f"{column} {value} is outside of {low:g} to {high:g}")
        return ", ".join(wrong)

    def _finding(
        self,
        kind: str,
        device: str,
        span: tuple[datetime, datetime],
        *,
        reason: str,
        rows: int = 1,
        row: Mapping[str, Any] | None = None,
    ) -> Finding:
        known = self._devices[device].window.device
        start, end = (moment.astimezone(UTC) for moment in span)
        return Finding(kind, device, known.name, known.site, start, end, rows, reason, row)


def _checked(cursor: Cursor, schema: str, kind: str, asked: Sequence[Window]) -> list[_Checked]:
    from psycopg2 import sql

    cursor.execute(
        sql.SQL("SELECT id::text, metadata FROM {} WHERE type = %s").format(sql.Identifier(schema, REGISTRY)),
        (kind,),
    )
    metadata = dict(cursor.fetchall())
    profiles: dict[str, Profile] = {}
    found = []
    for window in asked:
        name = window.device.profile
        try:
            profile = profiles.setdefault(name, load_profile(name))
            values = ranges(profile, metadata[window.device.id])
        except (ProfileError, TelemetryError) as error:
            raise TelemetryError(f"device {window.device.name}: {error}") from None
        found.append(_Checked(window, values, required(profile)))
    return found
