"""Find gaps in what is new: after each device's watermark, and where the ledger still waits for rows.

A device is verified up to its watermark: every gap before it stands in the ledger. Rows may come later than
that, by ``lateness_s`` seconds; the new look begins that much before the watermark. Gaps that were found
earlier are looked at again, so they close when their rows come, however late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from stationkeeper.controller.windows import Window as WeeklyWindow
from stationkeeper.telemetry.explanations import fetch, horizons
from stationkeeper.telemetry.gaps import (
    DEFAULT_K,
    DEFAULT_SETTLE_S,
    database_now,
    explained,
    idle_sites,
    settle,
)
from stationkeeper.telemetry.ledger_record import require_ledger
from stationkeeper.telemetry.report import Coverage, Report
from stationkeeper.telemetry.source import COVERAGE_STATE, LEDGER, READINGS, REGISTRY, Device, snapshot
from stationkeeper.telemetry.sweep import MICROSECOND, Stretch, Window, walk, windows

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

#: A controller's usual upload, and a network that was away for a while. What takes longer is a gap by then.
DEFAULT_LATENESS_S = 3600.0

_FIRST = """
SELECT min(active_from) FROM {registry} WHERE %(sites)s::text[] IS NULL OR site = ANY (%(sites)s::text[])
"""
_WAITING = """
SELECT r.id::text, r.name, r.site, r.type, r.profile, extract(epoch FROM r.cadence)::float8,
       greatest(lower(l.span), r.active_from - r.cadence * %(k)s), least(upper(l.span), r.active_to)
-- A gap begins at a row at most k cadences before the first day in service.
FROM {ledger} l JOIN {registry} r ON r.id = l.device_id
WHERE l.state = 'open' AND r.type = %(type)s
  AND (%(sites)s::text[] IS NULL OR r.site = ANY (%(sites)s::text[]))
ORDER BY r.site, r.name, lower(l.span)
"""


def find_new_gaps(
    connection: Connection,
    *,
    lateness_s: float = DEFAULT_LATENESS_S,
    sites: Sequence[str] | None = None,
    k: float = DEFAULT_K,
    settle_s: float = DEFAULT_SETTLE_S,
    schema: str = "flux",
    weekly: Mapping[str, Sequence[WeeklyWindow]] | None = None,
    timeout_s: float = 300.0,
) -> Report:
    """Return the coverage since each device's watermark, and of the open gaps before it (``rechecked``).

    A device without a watermark is looked at since its first day in service, or since the oldest reading that
    the retention left. `record` writes the result and moves the watermarks. Raises TelemetryError.
    """
    with snapshot(connection, timeout_s=timeout_s) as cursor:
        require_ledger(cursor, schema)
        begin = _first(cursor, schema, sites)
        end = database_now(cursor)
        settled_to = settle(cursor, begin or end, end, sites=sites, k=k, settle_s=settle_s, schema=schema)
        assert begin is not None
        verified = _watermarks(cursor, schema)
        dropped = horizons(cursor, schema)
        devices: list[Coverage] = []
        rechecked: list[Coverage] = []
        start = settled_to
        for kind in READINGS:
            waiting = _waiting(cursor, schema, kind, sites, k)
            of_device: dict[str, list[_Look]] = {}
            for look in waiting:
                of_device.setdefault(look.window.device.id, []).append(look)
            new: list[_Look] = []
            for window in windows(cursor, schema, kind, begin, settled_to, sites=sites):
                since = _since(window, verified, dropped, lateness_s)
                start = min(start, since)
                new += _new(window, since, of_device.get(window.device.id, ()))
            devices += _walk(cursor, schema, kind, new, k)
            begins = {look.window.device.id: look.window.start for look in new}
            again = [look for look in waiting if _before(look.window, begins)]
            rechecked += _walk(cursor, schema, kind, again, k)
        oldest = min((coverage.start for coverage in (*devices, *rechecked)), default=settled_to)
        explanations = fetch(cursor, schema, oldest, settled_to, weekly or {})
    found_report = Report(
        start, end, settled_to, k, tuple(devices), idle_sites(devices, sites), tuple(rechecked)
    )
    return explained(found_report, explanations)


def _first(cursor: Cursor, schema: str, sites: Sequence[str] | None) -> datetime | None:
    from psycopg2 import sql

    query = sql.SQL(_FIRST).format(registry=sql.Identifier(schema, REGISTRY))
    cursor.execute(query, {"sites": list(sites) if sites else None})
    row = cursor.fetchone()
    assert row is not None
    first: datetime | None = row[0]
    return first.astimezone(UTC) if first is not None else None


def _watermarks(cursor: Cursor, schema: str) -> dict[str, datetime]:
    from psycopg2 import sql

    cursor.execute(
        sql.SQL("SELECT device_id::text, verified_until FROM {}").format(
            sql.Identifier(schema, COVERAGE_STATE)
        )
    )
    return {device: until.astimezone(UTC) for device, until in cursor.fetchall()}


@dataclass(frozen=True)
class _Look:
    """A window; ``continued`` when it begins where a gap of the ledger does, after a row or an edge."""

    window: Window
    continued: bool


def _since(
    window: Window, verified: Mapping[str, datetime], dropped: Mapping[str, datetime], lateness_s: float
) -> datetime:
    """Return where the new part of a device's time begins."""
    starts = [window.start]
    if (until := verified.get(window.device.id)) is not None:
        starts.append(until - timedelta(seconds=lateness_s))
    if (horizon := dropped.get(window.device.type)) is not None:
        starts.append(horizon)
    return max(starts)


def _new(window: Window, since: datetime, waiting: Sequence[_Look]) -> list[_Look]:
    """Return the look at the new part of a window: from the beginning of the gap in which it begins, if any.

    So a gap is shown from where it begins, not from where this look does.
    """
    if since >= window.end:
        return []
    starts = [look.window.start for look in waiting if look.window.start < since <= look.window.end]
    return [_look(window.device, min(starts, default=since), window.end, continued=bool(starts))]


def _before(window: Window, begins: Mapping[str, datetime]) -> bool:
    """Tell whether a gap lies before the new look at its device."""
    return window.device.id not in begins or window.start < begins[window.device.id]


def _look(device: Device, start: datetime, end: datetime, *, continued: bool) -> _Look:
    expected = round((end - start).total_seconds() / device.cadence_s)
    return _Look(Window(device, start, end, expected), continued)


def _waiting(cursor: Cursor, schema: str, kind: str, sites: Sequence[str] | None, k: float) -> list[_Look]:
    """Return the open gaps of the ledger."""
    from psycopg2 import sql

    cursor.execute(
        sql.SQL(_WAITING).format(
            ledger=sql.Identifier(schema, LEDGER), registry=sql.Identifier(schema, REGISTRY)
        ),
        {"type": kind, "sites": list(sites) if sites else None, "k": k},
    )
    return [
        _look(Device(*device), start.astimezone(UTC), end.astimezone(UTC), continued=True)
        for *device, start, end in cursor.fetchall()
        if start < end
    ]


def _walk(cursor: Cursor, schema: str, kind: str, looks: Sequence[_Look], k: float) -> list[Coverage]:
    stretches = [
        Stretch(one.device, one.start + MICROSECOND, one.end, one.start)
        if look.continued
        else Stretch(one.device, one.start, one.end)
        for look in looks
        for one in (look.window,)
    ]
    walks = walk(cursor, schema, kind, stretches, k)
    return [
        Coverage(
            *(look.window.device, look.window.start, look.window.end, look.window.expected),
            *(found.present, found.gaps),
            continued=look.continued,
        )
        for look, found in zip(looks, walks, strict=True)
    ]
