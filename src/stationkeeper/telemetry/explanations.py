"""Why telemetry is missing where somebody knows: planned maintenance, weekly windows, samples given up,
readings that the retention dropped, gaps that no source could fill.

An explained gap is shown and counted apart, never hidden. One that only partly lies in an explanation is
split: the rest stays open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from stationkeeper.controller.schema_components import WindowSection
from stationkeeper.controller.windows import Window, spans_between
from stationkeeper.telemetry.source import (
    KNOWN_GAPS,
    LEDGER,
    MAINTENANCE,
    READINGS,
    RETENTION,
    Device,
    TelemetryError,
    has_table,
    rfc3339,
)

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Explanation:
    """Telemetry may be missing from ``start`` to ``end``.

    ``kind`` is ``maintenance``, ``weekly_window``, ``known_gap``, ``unrecoverable`` or ``expired``.
    """

    kind: str
    start: datetime
    end: datetime
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain data with times as RFC 3339 text."""
        return {"kind": self.kind, "from": rfc3339(self.start), "to": rfc3339(self.end), "text": self.text}


@dataclass(frozen=True)
class Gap:
    """No row between ``start`` and ``end``: the rows around it, edges of the window, or of an explanation.

    ``missing`` is an estimate: the length in cadences, minus one. ``open`` says that no row follows.
    """

    start: datetime
    end: datetime
    missing: int
    open: bool
    explanation: Explanation | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data with times as RFC 3339 text, the explanation only where there is one."""
        data: dict[str, Any] = {
            "from": rfc3339(self.start),
            "to": rfc3339(self.end),
            "missing": self.missing,
            "open": self.open,
        }
        return data | ({"explanation": self.explanation.as_dict()} if self.explanation else {})


@dataclass(frozen=True)
class Explanations:
    """All that is known for a window of time: by site, by the id of a device, and by type of device."""

    sites: Mapping[str, Sequence[Explanation]] = field(default_factory=dict)
    devices: Mapping[str, Sequence[Explanation]] = field(default_factory=dict)
    types: Mapping[str, Sequence[Explanation]] = field(default_factory=dict)

    def of(self, device: Device) -> list[Explanation]:
        """Return what can explain the gaps of one device."""
        return [
            *self.types.get(device.type, ()),
            *self.sites.get(device.site, ()),
            *self.devices.get(device.id, ()),
        ]


def weekly_windows(documents: Mapping[str, Any]) -> dict[str, list[Window]]:
    """Return windows by site from lists in the form of the component maintenance_mode.

    Raises TelemetryError for what is no window.
    """
    try:
        return {
            site: [WindowSection.model_validate(window).window for window in windows]
            for site, windows in documents.items()
        }
    except (ValidationError, TypeError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "not a list"
        raise TelemetryError(f"a weekly window cannot be understood: {what}") from None


def split(gap: Gap, explanations: Sequence[Explanation], *, slack: timedelta) -> list[Gap]:
    """Return a gap in pieces, each explained or not; their missing rows add up to those of the gap. Pure.

    The missing rows are thought evenly spread. A row that was due up to ``slack`` outside of an explanation
    is explained too: the same jitter that makes no gap between two rows makes none beside an explanation.
    """
    rows = max(1, gap.missing)
    pieces = []
    begin = gap.start
    ranges = list(_ranges(gap, rows, explanations, slack))
    for (first, last, explanation), (_, _, following) in zip(
        ranges, [*ranges[1:], (0, 0, None)], strict=True
    ):
        if last == rows:
            end = gap.end
        elif explanation is not None:
            end = explanation.end
        else:
            assert following is not None
            end = following.start
        missing = min(last - first + 1, gap.missing)
        pieces.append(Gap(begin, end, missing, gap.open and last == rows, explanation))
        begin = end
    return pieces


def _ranges(
    gap: Gap, rows: int, explanations: Sequence[Explanation], slack: timedelta
) -> Iterator[tuple[int, int, Explanation | None]]:
    """Yield which missing rows, numbered from 1, each explanation covers, and the ones between."""
    length = (gap.end - gap.start) // _MICROSECOND
    following = 1
    for explanation in sorted(explanations, key=lambda one: (one.start, one.end)):
        if explanation.end <= gap.start or explanation.start >= gap.end:
            continue
        begin = (explanation.start - slack - gap.start) // _MICROSECOND * (rows + 1)
        end = (explanation.end + slack - gap.start) // _MICROSECOND * (rows + 1)
        first, last = max(following, -(-begin // length)), min(rows, end // length)
        if first > last:
            continue
        if first > following:
            yield following, first - 1, None
        yield first, last, explanation
        following = last + 1
    if following <= rows:
        yield following, rows, None


def fetch(
    cursor: Cursor,
    schema: str,
    start: datetime,
    end: datetime,
    weekly: Mapping[str, Sequence[Window]],
) -> Explanations:
    """Return what the database and the weekly windows (by site) know about [start, end).

    A table that an older database does not have yet explains nothing.
    """
    sites: dict[str, list[Explanation]] = {}
    devices: dict[str, list[Explanation]] = {}
    for site, windows in weekly.items():
        for span in spans_between(windows, start, end):
            text = f"weekly maintenance window {span.window.name}"
            sites.setdefault(site, []).append(Explanation("weekly_window", span.start, span.end, text))
    window = {"start": start, "end": end}
    for site, first, last, reason, owner in _rows(cursor, schema, MAINTENANCE, _MAINTENANCE, window):
        text = f"planned maintenance: {reason} ({owner})"
        sites.setdefault(site, []).append(_explanation("maintenance", first, last, text))
    for device, first, last, samples, reason in _rows(cursor, schema, KNOWN_GAPS, _KNOWN, window):
        text = f"the controller gave up {samples} samples: {reason}"
        devices.setdefault(device, []).append(_explanation("known_gap", first, last, text))
    for device, first, last, reason in _rows(cursor, schema, LEDGER, _UNRECOVERABLE, window):
        devices.setdefault(device, []).append(_explanation("unrecoverable", first, last, reason))
    types = {
        kind: [
            _explanation(
                "expired", _EPOCH, until, f"readings before {rfc3339(until)} were dropped by the retention"
            )
        ]
        for kind, until in horizons(cursor, schema).items()
        if until > start
    }
    return Explanations(sites, devices, types)


def horizons(cursor: Cursor, schema: str) -> dict[str, datetime]:
    """Return by type of device up to where its readings were dropped; nothing where none ever were."""
    found = {}
    for relation, until in _rows(
        cursor, "ops", RETENTION, "SELECT relation, dropped_before FROM {table}", {}
    ):
        for kind, table in READINGS.items():
            if relation == f"{schema}.{table}":
                found[kind] = until.astimezone(UTC)
    return found


# Only what was planned: not the time by which the work exceeded its plan.
_MAINTENANCE = """
SELECT site, started_at, least(planned_until, ended_at), reason, owner FROM {table}
WHERE started_at < %(end)s AND least(planned_until, ended_at) > %(start)s
"""
_KNOWN = """
SELECT device_id::text, first_time, last_time, samples, reason FROM {table}
WHERE first_time < %(end)s AND last_time >= %(start)s
"""


_UNRECOVERABLE = """
SELECT device_id::text, lower(span), upper(span), reason FROM {table}
WHERE state = 'unrecoverable' AND span && tstzrange(%(start)s, %(end)s)
"""


def _rows(
    cursor: Cursor, schema: str, table: str, query: str, window: Mapping[str, datetime]
) -> list[tuple[Any, ...]]:
    from psycopg2 import sql

    if not has_table(cursor, schema, table):
        return []
    cursor.execute(sql.SQL(query).format(table=sql.Identifier(schema, table)), window)
    return cursor.fetchall()


def _explanation(kind: str, first: datetime, last: datetime, text: str) -> Explanation:
    return Explanation(kind, first.astimezone(UTC), last.astimezone(UTC), text)
