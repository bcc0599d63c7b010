"""Ask the database for what is unlike the day before, and for what the other checks found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from stationkeeper.telemetry.anomalies import METRICS, QUANTILES, Bounds, Found, Metric, Usual, severity
from stationkeeper.telemetry.source import (
    MAINTENANCE,
    QUARANTINE,
    READINGS,
    TelemetryError,
    aware,
    snapshot,
)
from stationkeeper.telemetry.sweep import windows
from stationkeeper.telemetry.validation import validate

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

#: How long before the window the usual values are taken from.
BASELINE = timedelta(hours=24)
#: Two rows further apart than this many cadences have a gap between them, and no speed.
_NEIGHBOURS = 3
_MICROSECOND = timedelta(microseconds=1)

# Rows in quarantine and rows of planned maintenance say nothing about what is usual, and raise no alarm.
_SERIES = """
SELECT x.time, {values} FROM {readings} x
WHERE x.device_id = %(device)s AND x.time >= %(from)s AND x.time < %(to)s
  AND NOT EXISTS (SELECT FROM {quarantine} q WHERE q.device_id = x.device_id AND q.time = x.time)
  AND NOT x.time <@ coalesce((
    SELECT range_agg(tstzrange(m.started_at, least(m.planned_until, m.ended_at))) FROM {maintenance} m
    WHERE m.site = %(site)s AND m.started_at < least(m.planned_until, m.ended_at)), '{{}}'::tstzmultirange)
WINDOW rows AS (ORDER BY x.time)
"""
_USUAL = """
SELECT extract(epoch FROM max(time) - min(time))::float8 / 3600, {usual} FROM ({series}) AS s
"""
_BEYOND = """
SELECT count(*), min(time), max(time),
       (array_agg({v} ORDER BY greatest(%(low)s - {v}, {v} - %(high)s) DESC))[1]
FROM ({series}) AS s WHERE time >= %(after)s AND ({v} < %(low)s OR {v} > %(high)s)
"""
_QUARANTINED = """
SELECT device_id::text, kind, min(time), max(time), count(*), min(id), max(id), min(reason)
FROM {quarantine} WHERE resolved_at IS NULL AND kind IN ('impossible', 'future') GROUP BY 1, 2 ORDER BY 1, 2
"""

#: Until when anomalies of a device, a metric and a kind are resolved: what came before is not told again.
Resolved = Mapping[tuple[str, str, str], datetime]


@dataclass(frozen=True)
class Look:
    """What a detection found. ``judged`` counts metrics with enough values; ``too_new`` those without."""

    found: Sequence[Found]
    judged: int
    too_new: int


def detect(
    connection: Connection,
    start: datetime,
    end: datetime,
    resolved: Resolved,
    *,
    schema: str = "flux",
    timeout_s: float = 300.0,
) -> Look:
    """Hold [start, end) against the 24 hours before it, for every metric of every device in service.

    Frozen values and rows in quarantine come from their own checks. Raises TelemetryError.
    """
    start, end = aware(start), aware(end)
    if start >= end:
        raise TelemetryError("the window is empty: it ends before it begins")
    found: list[Found] = []
    judged = too_new = 0
    with snapshot(connection, timeout_s=timeout_s) as cursor:
        for kind, metrics in METRICS.items():
            for window in windows(cursor, schema, kind, start, end, sites=None):
                device = window.device
                series = _Series(cursor, schema, kind, device.id, device.site, device.cadence_s)
                usual = series.usual(metrics, start)
                for metric in metrics:
                    bounds = usual[metric.name].bounds(metric)
                    judged += bounds is not None
                    too_new += bounds is None
                    if bounds is not None:
                        after = resolved.get((device.id, metric.name, "outlier"))
                        first = max(start, after + _MICROSECOND) if after else start
                        found += series.beyond(metric, bounds, first, end)
        cursor.execute(sql.SQL(_QUARANTINED).format(quarantine=sql.Identifier(schema, QUARANTINE)))
        for identifier, kind, first, last, rows, *ids, reason in cursor.fetchall():
            evidence = {"reason": f"{rows} rows in quarantine: {reason}", "rows": rows, "quarantine": ids}
            span = (first.astimezone(UTC), last.astimezone(UTC))
            found.append(Found(identifier, "row", kind, "warning", *span, evidence))
    found += _frozen(connection, start, end, resolved, schema)
    return Look(found, judged, too_new)


@dataclass(frozen=True)
class _Series:
    """The values of one device's metrics over time, each in its form."""

    cursor: Cursor
    schema: str
    kind: str
    device: str
    site: str
    cadence_s: float

    def usual(self, metrics: Sequence[Metric], start: datetime) -> dict[str, Usual]:
        """Return what each metric was in the 24 hours before ``start``."""
        columns = [
            sql.SQL(
                "count({v}), percentile_cont(%(quantiles)s::float8[]) WITHIN GROUP (ORDER BY {v})"
            ).format(v=sql.Identifier(metric.name))
            for metric in metrics
        ]
        query = sql.SQL(_USUAL).format(usual=sql.SQL(", ").join(columns), series=self._select(metrics))
        values = {"from": start - BASELINE, "to": start, "quantiles": list(QUANTILES)}
        self.cursor.execute(query, values | self._values)
        row = self.cursor.fetchone()
        assert row is not None
        hours = float(row[0] or 0)
        return {
            metric.name: Usual(int(row[1 + 2 * number]), hours, row[2 + 2 * number] or ())
            for number, metric in enumerate(metrics)
        }

    def beyond(self, metric: Metric, bounds: Bounds, first: datetime, end: datetime) -> list[Found]:
        """Return the values beyond the bounds in [first, end) as one finding, or none."""
        query = sql.SQL(_BEYOND).format(v=sql.Identifier(metric.name), series=self._select([metric]))
        # The speed of the first row needs the one before it.
        lead = timedelta(seconds=_NEIGHBOURS * self.cadence_s)
        values = {"from": first - lead, "to": end, "after": first, "low": bounds.low, "high": bounds.high}
        self.cursor.execute(query, values | self._values)
        row = self.cursor.fetchone()
        if row is None or not row[0]:
            return []
        beyond = bounds.beyond(row[3])
        evidence = {
            "form": metric.form,
            "reference": metric.reference or None,
            "values": row[0],
            "beyond": round(beyond, 1),
            "median": bounds.median,
            "deviation": bounds.deviation,
        }
        span = (row[1].astimezone(UTC), row[2].astimezone(UTC))
        worst = severity(beyond, row[0])
        return [
            Found(
                self.device, metric.name, "outlier", worst, *span, evidence, row[3], bounds.low, bounds.high
            )
        ]

    @property
    def _values(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "site": self.site,
            "apart": timedelta(seconds=_NEIGHBOURS * self.cadence_s),
        }

    def _select(self, metrics: Sequence[Metric]) -> sql.Composed:
        values = [
            sql.SQL("{} AS {}").format(_expression(metric), sql.Identifier(metric.name)) for metric in metrics
        ]
        return sql.SQL(_SERIES).format(
            values=sql.SQL(", ").join(values),
            readings=sql.Identifier(self.schema, READINGS[self.kind]),
            quarantine=sql.Identifier(self.schema, QUARANTINE),
            maintenance=sql.Identifier(self.schema, MAINTENANCE),
        )


def _expression(metric: Metric) -> sql.Composable:
    """Return a metric in its form; NULL where it has none (no number, no neighbour, nothing it was told)."""
    value = _number(metric.name)
    if metric.form == "level":
        return value
    if metric.form == "deviation":
        return sql.SQL("({} - {})").format(value, _number(metric.reference))
    return sql.SQL(
        "CASE WHEN x.time - lag(x.time) OVER rows <= %(apart)s THEN ({v} - lag({v}) OVER rows)"
        " / extract(epoch FROM x.time - lag(x.time) OVER rows)::float8 * 3600 END"
    ).format(v=value)


def _number(column: str) -> sql.Composable:
    # NaN is above every number here.
    return sql.SQL("CASE WHEN {c} > '-Infinity' AND {c} < 'Infinity' THEN {c} END").format(
        c=sql.Identifier("x", column)
    )


def _frozen(
    connection: Connection, start: datetime, end: datetime, resolved: Resolved, schema: str
) -> list[Found]:
    """Return the longest stretch of frozen values of each device."""
    longest: dict[str, Found] = {}
    for one in validate(connection, start, end, kinds=["stale"], schema=schema):
        if one.end <= resolved.get((one.device_id, "row", "stale"), one.start):
            continue
        evidence = {"reason": one.reason, "rows": one.rows}
        found = Found(one.device_id, "row", "stale", "warning", one.start, one.end, evidence)
        known = longest.get(one.device_id)
        if known is None or known.evidence["rows"] < one.rows:
            longest[one.device_id] = found
    return list(longest.values())
