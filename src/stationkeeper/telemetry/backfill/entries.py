"""What the database knows about a claimed entry: its device, its limits, what is done, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from psycopg2 import sql
from psycopg2.extras import Json

from stationkeeper.telemetry.backfill.slices import Slice, between
from stationkeeper.telemetry.backfill.tables import Table
from stationkeeper.telemetry.explanations import horizons
from stationkeeper.telemetry.gaps import DEFAULT_K
from stationkeeper.telemetry.ledger import Entry
from stationkeeper.telemetry.source import BATCHES, LEDGER, REGISTRY, Device, TelemetryError, rfc3339

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)

_MICROSECOND = timedelta(microseconds=1)
_DEVICES = """
SELECT id::text, name, site, type, profile, extract(epoch FROM cadence)::float8,
       active_from, least(active_to, now())
FROM {registry} WHERE id = ANY (%s::uuid[])
"""
# `first_value` over two rows is the predecessor, at less cost than `lag`.
_HOLES = """
WITH edge AS (
    SELECT min(r.time) AS first, max(r.time) AS last FROM {rows} AS r
    WHERE r.device_id = %(device)s AND r.time > %(lower)s AND r.time < %(upper)s)
SELECT before, after FROM (
    SELECT first_value(r.time) OVER (ORDER BY r.time ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS before,
           r.time AS after
    FROM {rows} AS r WHERE r.device_id = %(device)s AND r.time > %(lower)s AND r.time < %(upper)s
    UNION ALL
    SELECT %(lower)s::timestamptz, coalesce(first, %(upper)s::timestamptz) FROM edge
    UNION ALL
    SELECT last, %(upper)s::timestamptz FROM edge) AS pairs
WHERE after - before > %(limit)s ORDER BY before DESC
"""


@dataclass(frozen=True)
class Hole:
    """No row of a device between two moments, and an estimate of how many are missing."""

    before: datetime
    after: datetime
    missing: int

    @property
    def span(self) -> Slice:
        """The time in which the missing rows lie."""
        return between(self.before, self.after)


@dataclass(frozen=True)
class Job:
    """A gap, its device, and the part of its span that may be filled; ``refusal`` says why not all of it."""

    gap: Entry
    device: Device
    span: Slice | None
    refusal: str = ""


def read_jobs(cursor: Cursor, schema: str, gaps: Sequence[Entry]) -> list[Job]:
    """Return a job for each gap, in their order.

    A span is clipped to the device's time in service, to now, and to what retention has left: readings before
    that would be dropped again, and their rollup can not be computed any more.
    """
    query = sql.SQL(_DEVICES).format(registry=sql.Identifier(schema, REGISTRY))
    cursor.execute(query, ([gap.device_id for gap in gaps],))
    devices = {row[0]: (Device(*row[:6]), row[6].astimezone(UTC), row[7].astimezone(UTC)) for row in cursor}
    dropped_before = horizons(cursor, schema)
    jobs = []
    for gap in gaps:
        if gap.device_id not in devices:
            raise TelemetryError(f"the registry has no device {gap.device_id}, which gap {gap.id} is of")
        device, first, last = devices[gap.device_id]
        dropped = dropped_before.get(device.type)
        begin = max(between(gap.start, gap.end).start, first)
        end = min(gap.end, last)
        refusal = ""
        if dropped is not None and begin < dropped:
            begin, refusal = dropped, f"retention has dropped the raw readings before {rfc3339(dropped)}"
        elif begin >= end:
            refusal = f"the device was in service from {rfc3339(first)} to {rfc3339(last)} only"
        jobs.append(Job(gap, device, Slice(begin, end) if begin < end else None, refusal))
    return jobs


def holes(cursor: Cursor, table: Table, job: Job, *, k: float = DEFAULT_K) -> list[Hole]:
    """Return what is missing in a job's span now, newest first."""
    if job.span is None:
        return []
    cadence = timedelta(seconds=job.device.cadence_s)
    cursor.execute(
        sql.SQL(_HOLES).format(rows=table.identifier),
        {
            "device": job.device.id,
            "limit": cadence * k,
            "lower": max(job.gap.start, job.span.start - _MICROSECOND),
            "upper": job.span.end,
        },
    )
    return [
        Hole(before.astimezone(UTC), after.astimezone(UTC), max(1, round((after - before) / cadence) - 1))
        for before, after in cursor
    ]


def done_slices(cursor: Cursor, schema: str, ledger_id: int, source: str) -> set[Slice]:
    """Return the slices that earlier runs have stored and proven with what a source had."""
    cursor.execute(
        sql.SQL("SELECT lower(span), upper(span) FROM {} WHERE ledger_id = %s AND source = %s").format(
            _batch(schema)
        ),
        (ledger_id, source),
    )
    return {Slice(start.astimezone(UTC), end.astimezone(UTC)) for start, end in cursor}


def recovered(cursor: Cursor, schema: str, ledger_id: int) -> tuple[int, str]:
    """Return how many rows all runs have added for an entry, and the names of the sources."""
    cursor.execute(
        sql.SQL(
            "SELECT coalesce(sum(rows_new), 0), string_agg(DISTINCT source, ', ' ORDER BY source)"
            " FROM {} WHERE ledger_id = %s AND rows_new > 0"
        ).format(_batch(schema)),
        (ledger_id,),
    )
    row = cursor.fetchone()
    assert row is not None
    return int(row[0]), row[1] or ""


def split_off(
    cursor: Cursor, schema: str, entry: Entry, holes_left: Sequence[Hole], *, give_up: str | None
) -> list[int]:
    """Give what is still missing of an entry entries of its own, so that no row is without a state.

    They are open, or unrecoverable with the reason ``give_up``. The entry has to be settled before. Returns
    their numbers.
    """
    numbers = []
    for hole in holes_left:
        cursor.execute(
            sql.SQL(
                "INSERT INTO {} (device_id, span, expected, state, reason, evidence)"
                " VALUES (%s, tstzrange(%s, %s, '()'), %s, %s, %s, %s) RETURNING id"
            ).format(sql.Identifier(schema, LEDGER)),
            (
                entry.device_id,
                hole.before,
                hole.after,
                hole.missing,
                "unrecoverable" if give_up else "open",
                give_up,
                Json({"rest_of": entry.id}),
            ),
        )
        row = cursor.fetchone()
        assert row is not None
        numbers.append(int(row[0]))
    return numbers


def _batch(schema: str) -> sql.Identifier:
    return sql.Identifier(schema, BATCHES)
