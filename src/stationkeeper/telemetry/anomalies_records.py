"""The table of anomalies: what is found is kept once, listed, and resolved by somebody for a reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from psycopg2 import sql
from psycopg2.extras import Json

from stationkeeper.telemetry.anomalies import RESOLUTIONS, SEVERITIES, Anomaly, Found
from stationkeeper.telemetry.source import (
    ANOMALIES,
    QUARANTINE,
    READINGS,
    REGISTRY,
    TelemetryError,
    changing,
    check_sites,
    has_table,
    snapshot,
)

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

_TIMEOUT_S = 60.0
_COLUMNS = """
SELECT a.id, a.device_id::text, r.name, r.site, r.type, a.metric, a.kind, a.severity,
       lower(a.span), upper(a.span), a.value, a.expected_low, a.expected_high, a.evidence, a.detected_at,
       CASE WHEN a.resolved_at IS NOT NULL THEN jsonb_build_object(
           'at', a.resolved_at, 'by', a.resolved_by, 'as', a.resolved_as, 'text', a.resolution) END
FROM {anomalies} a JOIN {registry} r ON r.id = a.device_id
"""
_LIST = """
WHERE (%(sites)s::text[] IS NULL OR r.site = ANY (%(sites)s::text[]))
  AND (%(devices)s::text[] IS NULL OR r.name = ANY (%(devices)s::text[]))
  AND a.severity = ANY (%(severities)s::text[])
  AND (%(resolved)s OR a.resolved_at IS NULL)
  AND (%(older)s::interval IS NULL OR a.detected_at <= now() - %(older)s::interval)
ORDER BY a.resolved_at IS NOT NULL, array_position(%(severities)s::text[], a.severity) DESC,
  lower(a.span), a.id
"""
_OPEN = "WHERE a.resolved_at IS NULL FOR UPDATE OF a"
_INSERT = """
INSERT INTO {anomalies}
  (device_id, metric, kind, severity, span, value, expected_low, expected_high, evidence)
VALUES (%s, %s, %s, %s, tstzrange(%s, %s, '[]'), %s, %s, %s, %s)
"""
_UPDATE = """
UPDATE {anomalies} SET severity = %s, span = tstzrange(%s, %s, '[]'), value = %s, expected_low = %s,
  expected_high = %s, evidence = %s WHERE id = %s
"""
_RESOLVE = """
UPDATE {anomalies} SET resolved_at = now(), resolved_by = %s, resolved_as = %s, resolution = %s WHERE id = %s
"""
_RELEASE = """
UPDATE {quarantine} SET resolved_at = now(), resolution = %s
WHERE device_id = %s AND kind = %s AND resolved_at IS NULL AND time >= %s AND time <= %s
"""


@dataclass(frozen=True)
class Resolution:
    """What becomes of anomalies: ``kind`` is one of `RESOLUTIONS`, ``by`` who decided."""

    kind: str
    text: str
    by: str


def resolved_until(connection: Connection, *, schema: str = "flux") -> dict[tuple[str, str, str], datetime]:
    """Return until when anomalies of a device, a metric and a kind are resolved."""
    with snapshot(connection, timeout_s=_TIMEOUT_S) as cursor:
        _require(cursor, schema)
        cursor.execute(
            sql.SQL(
                "SELECT device_id::text, metric, kind, max(upper(span)) FROM {} WHERE resolved_at IS NOT NULL"
                " GROUP BY 1, 2, 3"
            ).format(sql.Identifier(schema, ANOMALIES))
        )
        return {(row[0], row[1], row[2]): row[3].astimezone(UTC) for row in cursor.fetchall()}


def record(connection: Connection, found: Iterable[Found], *, schema: str = "flux") -> tuple[int, int]:
    """Keep what was found; return how many anomalies are new, and how many that were open grew.

    Raises TelemetryError; nothing is kept then.
    """
    names = _names(schema)
    new = grown = 0
    with changing(connection, timeout_s=_TIMEOUT_S) as cursor:
        cursor.execute(sql.SQL(_COLUMNS + _OPEN).format(**names))
        known = {(one.device_id, one.metric, one.kind): one for one in map(_anomaly, cursor.fetchall())}
        for one in found:
            before = known.get((one.device_id, one.metric, one.kind))
            key = (one.device_id, one.metric, one.kind)
            if before is None:
                values = (
                    one.severity,
                    one.start,
                    one.end,
                    one.value,
                    one.low,
                    one.high,
                    Json(dict(one.evidence)),
                )
                cursor.execute(sql.SQL(_INSERT).format(**names), key + values)
                new += 1
                continue
            was = Found(
                *key,
                before.severity,
                before.start,
                before.end,
                before.evidence,
                before.value,
                before.low,
                before.high,
            )
            now = one.joined(was)
            if now != was:
                values = (
                    now.severity,
                    now.start,
                    now.end,
                    now.value,
                    now.low,
                    now.high,
                    Json(dict(now.evidence)),
                )
                cursor.execute(sql.SQL(_UPDATE).format(**names), (*values, before.id))
                grown += 1
    return new, grown


def find(
    connection: Connection,
    *,
    sites: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
    least: str = "info",
    resolved: bool = False,
    older_than_h: float | None = None,
    schema: str = "flux",
) -> list[Anomaly]:
    """Return open anomalies of severity ``least`` or worse, the worst and oldest first.

    With ``resolved`` the others too, at the end; with ``older_than_h`` only those detected at least that many
    hours ago. Raises TelemetryError.
    """
    if least not in SEVERITIES:
        raise TelemetryError(f"no severity {least!r}; severities are {', '.join(SEVERITIES)}")
    with snapshot(connection, timeout_s=_TIMEOUT_S) as cursor:
        _require(cursor, schema)
        check_sites(cursor, schema, sites)
        values = {
            "sites": list(sites) if sites else None,
            "devices": list(devices) if devices else None,
            "severities": list(SEVERITIES[SEVERITIES.index(least) :]),
            "resolved": resolved,
            "older": timedelta(hours=older_than_h) if older_than_h else None,
        }
        cursor.execute(sql.SQL(_COLUMNS + _LIST).format(**_names(schema)), values)
        return [_anomaly(row) for row in cursor.fetchall()]


def resolve(
    connection: Connection,
    ids: Sequence[int],
    resolution: Resolution,
    *,
    sites: Sequence[str] | None = None,
    schema: str = "flux",
    check: bool = False,
) -> tuple[list[Anomaly], list[Anomaly]]:
    """Resolve anomalies, and with them the rows in quarantine that they stand for.

    Return those that were open and those that were resolved just so before, as they were. Raises
    TelemetryError for an identifier that is unknown, of another site, or resolved otherwise; nothing is
    touched then.
    """
    if resolution.kind not in RESOLUTIONS:
        raise TelemetryError(f"no resolution {resolution.kind!r}; use {', '.join(RESOLUTIONS)}")
    if not resolution.text.strip():
        raise TelemetryError("a resolution needs a text: what it was, and what was done")
    if not ids:
        raise TelemetryError("name the anomalies by their id; anomaly_list shows them")
    names = _names(schema)
    with (snapshot if check else changing)(connection, timeout_s=_TIMEOUT_S) as cursor:
        _require(cursor, schema)
        lock = "" if check else " FOR UPDATE OF a"
        cursor.execute(
            sql.SQL(_COLUMNS + "WHERE a.id = ANY (%s) ORDER BY a.id" + lock).format(**names), (list(ids),)
        )
        found = [_anomaly(row) for row in cursor.fetchall()]
        _refuse(ids, found, resolution, sites)
        waiting = [one for one in found if one.resolved is None]
        for one in [] if check else waiting:
            text = f"{resolution.kind}: {resolution.text}"
            span = (one.start, one.end)
            cursor.execute(sql.SQL(_RELEASE).format(**names), (text, one.device_id, one.kind, *span))
            cursor.execute(
                sql.SQL(_RESOLVE).format(**names), (resolution.by, resolution.kind, resolution.text, one.id)
            )
    return waiting, [one for one in found if one.resolved is not None]


def readings_around(
    connection: Connection,
    anomaly: Anomaly,
    *,
    margin_s: float = 300.0,
    limit: int = 20,
    schema: str = "flux",
) -> list[Mapping[str, Any]]:
    """Return the device's rows around an anomaly, as plain data without what is null.

    From ``margin_s`` before its first row to ``margin_s`` after its last one, the ``limit`` ones next to the
    first if there are more. Raises TelemetryError.
    """
    margin = timedelta(seconds=margin_s)
    with snapshot(connection, timeout_s=_TIMEOUT_S) as cursor:
        cursor.execute(
            sql.SQL(
                "SELECT row FROM (SELECT x.time,"
                " jsonb_strip_nulls(to_jsonb(x) - 'device_id' - 'boot_id') AS row"
                " FROM {} x WHERE x.device_id = %s AND x.time >= %s AND x.time <= %s"
                " ORDER BY abs(extract(epoch FROM x.time - %s)) LIMIT %s) AS near ORDER BY time"
            ).format(sql.Identifier(schema, READINGS[anomaly.type])),
            (anomaly.device_id, anomaly.start - margin, anomaly.end + margin, anomaly.start, limit),
        )
        return [row[0] for row in cursor.fetchall()]


def _refuse(
    ids: Sequence[int], found: Sequence[Anomaly], resolution: Resolution, sites: Sequence[str] | None
) -> None:
    """Raise for identifiers that cannot be resolved so."""
    wrong = [f"there is no anomaly {id_}" for id_ in sorted(set(ids) - {one.id for one in found})]
    for one in found:
        if sites is not None and one.site not in sites:
            wrong.append(f"anomaly {one.id} is of site {one.site}, not of the target")
        said = one.resolved
        if said and (said["as"], said["text"]) != (resolution.kind, resolution.text):
            wrong.append(f"anomaly {one.id} was resolved by {said['by']} at {said['at']} as {said['as']}")
    if wrong:
        raise TelemetryError("Refused, nothing was touched: " + "; ".join(wrong))


def _require(cursor: Cursor, schema: str) -> None:
    if not has_table(cursor, schema, ANOMALIES):
        raise TelemetryError(f"{schema}.{ANOMALIES} does not exist: run the migrations first")


def _names(schema: str) -> dict[str, sql.Identifier]:
    return {
        "anomalies": sql.Identifier(schema, ANOMALIES),
        "registry": sql.Identifier(schema, REGISTRY),
        "quarantine": sql.Identifier(schema, QUARANTINE),
    }


def _anomaly(row: Sequence[Any]) -> Anomaly:
    values = list(row)
    for place in (8, 9, 14):
        values[place] = values[place].astimezone(UTC)
    return Anomaly(*values)
