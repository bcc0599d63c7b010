"""What the database has for the hot tier."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from stationkeeper.hot_tier.connection import HotTierError
from stationkeeper.hot_tier.keys import WINDOW
from stationkeeper.telemetry.source import READINGS, REGISTRY, check_sites, check_tables, rfc3339

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.sql import SQL, Composed

HOUR = timedelta(hours=1)
_FETCH = 5000
# Not measured by the device: they would make every point of a series longer. The newest row has them.
_BOOKKEEPING = ("seq", "heartbeat")
_NUMBERS = ("double precision", "real", "numeric", "smallint", "integer", "bigint")


@dataclass(frozen=True)
class Source:
    """A device in service and where its rows are: ``columns`` of the newest row, ``fields`` of a series."""

    id: str
    name: str
    site: str
    type: str
    columns: tuple[str, ...]
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Window:
    """The 24 hours before ``end``, which is not part of them; both at a whole millisecond."""

    start: datetime
    end: datetime

    def hours(self) -> list[tuple[datetime, datetime]]:
        """Return its spans between full hours, the first and the last may be shorter."""
        edges = [self.start]
        edge = self.start.replace(minute=0, second=0, microsecond=0) + HOUR
        while edge < self.end:
            edges.append(edge)
            edge += HOUR
        return list(zip(edges, [*edges[1:], self.end], strict=True))


def window(cursor: Cursor) -> Window:
    """Return the window that ends now, by the database's clock."""
    cursor.execute("SET LOCAL extra_float_digits = 1")
    cursor.execute("SELECT date_trunc('milliseconds', now())")
    ((end,),) = cursor.fetchall()
    return Window(end - WINDOW, end)


def sources(cursor: Cursor, schema: str, patterns: Sequence[str] = ()) -> list[Source]:
    """Return the devices in service, by name; only those that a pattern matches, where any is given.

    Raises HotTierError for a pattern that matches no registered device, TelemetryError for missing tables.
    """
    from psycopg2 import sql

    check_tables(cursor, schema)
    check_sites(cursor, schema, None)
    cursor.execute(
        sql.SQL(
            "SELECT id::text, name, site, type,"
            " active_from <= now() AND coalesce(active_to, 'infinity') > now() FROM {} ORDER BY name"
        ).format(sql.Identifier(schema, REGISTRY))
    )
    registered = cursor.fetchall()
    unknown = [one for one in patterns if not any(fnmatchcase(row[1], one) for row in registered)]
    if unknown:
        raise HotTierError(f"no registered device matches {', '.join(unknown)}")
    columns = {kind: _columns(cursor, schema, table) for kind, table in READINGS.items()}
    return [
        Source(identifier, name, site, kind, *columns[kind])
        for identifier, name, site, kind, active in registered
        if active and kind in columns and (not patterns or any(fnmatchcase(name, one) for one in patterns))
    ]


def _columns(cursor: Cursor, schema: str, table: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    cursor.execute(
        "SELECT column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = %s AND table_name = %s AND column_name NOT IN ('device_id', 'time')"
        " ORDER BY ordinal_position",
        (schema, table),
    )
    found = cursor.fetchall()
    names = tuple(str(name) for name, _ in found)
    fields = tuple(str(name) for name, kind in found if kind in _NUMBERS and name not in _BOOKKEEPING)
    return names, fields


def counts(
    cursor: Cursor, schema: str, devices: Sequence[Source], span: Window
) -> dict[str, dict[datetime, int]]:
    """Return for each device the number of rows by full hour (the hour's start), in one pass."""
    from psycopg2 import sql

    found: dict[str, dict[datetime, int]] = {one.name: {} for one in devices}
    for _, table, group in _groups(devices):
        names = {one.id: one.name for one in group}
        cursor.execute(
            sql.SQL(
                # Not date_trunc(): it looks up the zone with every row, and takes three times as long.
                "SELECT device_id, date_bin('1 hour', time, '1970-01-01Z'), count(*) FROM {}"
                " WHERE device_id = ANY (%s::uuid[]) AND time >= %s AND time < %s GROUP BY 1, 2"
            ).format(sql.Identifier(schema, table)),
            (list(names), span.start, span.end),
        )
        for identifier, hour, number in cursor.fetchall():
            found[names[str(identifier)]][hour] = number
    return found


def newest(
    cursor: Cursor, schema: str, devices: Sequence[Source], before: datetime
) -> dict[str, dict[str, str]]:
    """Return each device's newest row before a moment as text; {} without one.

    It has the device's id, site and type, too, and the fields of the points of its series, in their order.
    """
    from psycopg2 import sql

    found: dict[str, dict[str, str]] = {one.name: {} for one in devices}
    for _, table, group in _groups(devices):
        columns = group[0].columns
        by_id = {one.id: one for one in group}
        cursor.execute(
            sql.SQL(
                "SELECT d.id::text, l.* FROM unnest(%s::uuid[]) AS d(id) CROSS JOIN LATERAL"
                " (SELECT x.time, {columns} FROM {table} x WHERE x.device_id = d.id AND x.time < %s"
                " ORDER BY x.time DESC LIMIT 1) l"
            ).format(columns=_texts(columns, sql.SQL(", ")), table=sql.Identifier(schema, table)),
            (list(by_id), before),
        )
        for identifier, moment, *values in cursor.fetchall():
            device = by_id[identifier]
            found[device.name] = {
                "time": rfc3339(moment),
                "device_id": identifier,
                "site": device.site,
                "type": device.type,
                "fields": ",".join(device.fields),
                **dict(zip(columns, values, strict=True)),
            }
    return found


def stream(
    cursor: Cursor, schema: str, device: Source, start: datetime, end: datetime
) -> Generator[list[tuple[int, str]], None, None]:
    """Yield the rows of a span as (score, member) of a series, in time order, a few thousand at a time.

    To be closed by who does not take it all: its cursor has to go before the transaction.
    """
    from psycopg2 import sql

    query = sql.SQL(
        "SELECT us / 1000, rtrim(to_hex(us) || ',' || {fields}, ',')"
        " FROM (SELECT *, (extract(epoch FROM time) * 1000000)::bigint AS us FROM {table}"
        " WHERE device_id = %s AND time >= %s AND time < %s ORDER BY time) x"
    ).format(
        fields=_texts(device.fields, sql.SQL(" || ',' || ")),
        table=sql.Identifier(schema, READINGS[device.type]),
    )
    # A cursor of the server's: a day of a fast device does not have to fit into memory.
    with cursor.connection.cursor(name="hot_tier") as rows:
        rows.itersize = _FETCH
        rows.execute(query, (device.id, start, end))
        while batch := rows.fetchmany(_FETCH):
            yield batch


def _texts(columns: Sequence[str], between: SQL) -> Composed:
    from psycopg2 import sql

    return between.join(
        sql.SQL("coalesce(x.{}::text, '')").format(sql.Identifier(column)) for column in columns
    )


def _groups(devices: Sequence[Source]) -> list[tuple[str, str, list[Source]]]:
    found = [(kind, table, [one for one in devices if one.type == kind]) for kind, table in READINGS.items()]
    return [one for one in found if one[2]]


_METRICS = """
SELECT count(*), coalesce(sum(n), 0), sum(power_kw), {more} FROM (
    SELECT x.device_id, count(*) AS n, avg(x.power_kw) AS power_kw, {inner} FROM {table} x
    WHERE x.device_id = ANY (%s::uuid[]) AND x.time >= %s AND x.time < %s GROUP BY x.device_id) d
"""


def metrics(cursor: Cursor, schema: str, devices: Sequence[Source], end: datetime) -> dict[str, str]:
    """Return the figures of the hour before ``end``, as text.

    Power is the sum over devices of each one's mean (+ discharges), energy what the meters' counters moved.
    """
    from psycopg2 import sql

    shapes = {
        "bess": ("avg(soe_percent)", "avg(x.soe_percent) AS soe_percent", ("battery_soe_percent",)),
        "meter": (
            "sum(imported), sum(exported)",
            "max(x.energy_import_kwh) - min(x.energy_import_kwh) AS imported,"
            " max(x.energy_export_kwh) - min(x.energy_export_kwh) AS exported",
            ("energy_import_kwh", "energy_export_kwh"),
        ),
    }
    words = {"bess": "battery", "meter": "meter"}
    result: dict[str, Any] = {"from": rfc3339(end - HOUR), "to": rfc3339(end), "devices": len(devices)}
    reporting = rows = 0
    for kind, table, group in _groups(devices):
        more, inner, names = shapes[kind]
        cursor.execute(
            sql.SQL(_METRICS).format(
                more=sql.SQL(more), inner=sql.SQL(inner), table=sql.Identifier(schema, table)
            ),
            ([one.id for one in group], end - HOUR, end),
        )
        ((here, number, power, *values),) = cursor.fetchall()
        reporting, rows = reporting + here, rows + int(number)
        result |= dict(zip((f"{words[kind]}_power_kw", *names), (power, *values), strict=True))
    result |= {"devices_reporting": reporting, "rows": rows}
    return {key: "" if value is None else str(value) for key, value in result.items()}
