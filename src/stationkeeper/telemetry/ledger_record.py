"""Write into the ledger what a look at the telemetry has found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from stationkeeper.telemetry.explanations import Gap, horizons
from stationkeeper.telemetry.ledger_plan import Look, Plan, Span, Standing, plan
from stationkeeper.telemetry.report import Coverage, Report
from stationkeeper.telemetry.source import (
    COVERAGE_STATE,
    LEDGER,
    REGISTRY,
    Device,
    TelemetryError,
    changing,
    has_table,
    rfc3339,
    snapshot,
)
from stationkeeper.telemetry.sweep import Stretch, walk

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

_MICROSECOND = timedelta(microseconds=1)

_STANDING = """
SELECT device_id::text, id, lower(span), upper(span), expected, state, reason FROM {ledger}
WHERE device_id = ANY (%(devices)s::uuid[])
  AND state IN ('open', 'claimed', 'explained', 'expired', 'unrecoverable')
  AND span && tstzrange(%(first)s, %(last)s)
ORDER BY device_id, lower(span) FOR UPDATE
"""
# A device is verified up to a moment only if nothing before it was left out: its first look goes back to its
# first day in service, or to where its readings begin.
_VERIFIED = """
INSERT INTO {state} AS known (device_id, verified_until)
SELECT r.id, v.until
FROM unnest(%(devices)s::uuid[], %(starts)s::timestamptz[], %(ends)s::timestamptz[],
            %(horizons)s::timestamptz[]) AS v (id, since, until, horizon)
JOIN {registry} r ON r.id = v.id
LEFT JOIN {state} s ON s.device_id = r.id
WHERE v.since <= coalesce(s.verified_until, greatest(r.active_from, v.horizon))
ON CONFLICT (device_id) DO UPDATE SET verified_until = excluded.verified_until
WHERE excluded.verified_until > known.verified_until
"""


@dataclass(frozen=True)
class Recorded:
    """How many entries a report made or changed. ``new`` are open ones, ``explained`` those with a reason."""

    new: int = 0
    explained: int = 0
    extended: int = 0
    reduced: int = 0
    closed: int = 0

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        return self != Recorded()

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)


def record(
    connection: Connection, report: Report, now: datetime, *, schema: str = "flux", timeout_s: float = 60.0
) -> Recorded:
    """Make the ledger agree with a report, in one transaction; the same report again changes nothing.

    A gap that grew is extended, one whose rows have come by themselves is closed as recovered, one of which
    some have come is reduced to the rest. Entries that a worker holds are left to it. ``now`` goes into the
    evidence. Raises TelemetryError.
    """
    if not report.devices and not report.rechecked:
        return Recorded()
    with changing(connection, timeout_s=timeout_s) as cursor:
        require_ledger(cursor, schema)
        # One at a time: two records of the same gap would both insert it.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s), 0)", (f"{schema}.{LEDGER}",))
        plans = _plans(cursor, report, schema)
        total = Recorded()
        for device, one, standing in plans:
            _apply(cursor, device, one, report=report, now=now, schema=schema)
            total = _add(total, one, standing)
        _verify(cursor, report, schema)
        return total


def foresee(
    connection: Connection, report: Report, *, schema: str = "flux", timeout_s: float = 60.0
) -> Recorded:
    """Return what `record` would do, and change nothing. Raises TelemetryError."""
    with snapshot(connection, timeout_s=timeout_s) as cursor:
        require_ledger(cursor, schema)
        total = Recorded()
        for _, one, standing in _plans(cursor, report, schema, lock=False):
            total = _add(total, one, standing)
        return total


def require_ledger(cursor: Cursor, schema: str) -> None:
    """Raise TelemetryError when the database has no ledger yet."""
    if not has_table(cursor, schema, LEDGER):
        raise TelemetryError(f"{schema}.{LEDGER} does not exist: run the migrations first")


def _plans(
    cursor: Cursor, report: Report, schema: str, *, lock: bool = True
) -> list[tuple[Device, Plan, list[Standing]]]:
    """Return for each device of the report what is to be done, and its entries."""
    looks: dict[Device, list[Coverage]] = {}
    for coverage in (*report.devices, *report.rechecked):
        looks.setdefault(coverage.device, []).append(coverage)
    standing = _standing(cursor, [*report.devices, *report.rechecked], schema, lock=lock)
    plans = []
    for device, seen in looks.items():
        entries = standing.get(device.id, [])
        changes = plan(
            entries,
            [gap for coverage in seen for gap in _found(coverage)],
            [Look(Span(coverage.start, coverage.end), coverage.continued) for coverage in seen],
            cadence_s=device.cadence_s,
            k=report.k,
        )
        plans.append((device, changes, entries))
    return plans


def _standing(
    cursor: Cursor, coverages: Sequence[Coverage], schema: str, *, lock: bool
) -> dict[str, list[Standing]]:
    from psycopg2 import sql

    edges = [(coverage.start, coverage.end) for coverage in coverages]
    edges += [(gap.start, gap.end) for one in coverages for gap in (*one.gaps, *one.explained)]
    query = _STANDING if lock else _STANDING.removesuffix("FOR UPDATE\n")
    cursor.execute(
        sql.SQL(query).format(ledger=sql.Identifier(schema, LEDGER)),
        {
            "devices": list({coverage.device.id for coverage in coverages}),
            # Wider by a moment: an entry that only touches may be carried on.
            "first": min(start for start, _ in edges) - _MICROSECOND,
            "last": max(end for _, end in edges) + _MICROSECOND,
        },
    )
    found: dict[str, list[Standing]] = {}
    for device, number, start, end, expected, state, reason in cursor.fetchall():
        span = Span(start.astimezone(UTC), end.astimezone(UTC))
        found.setdefault(device, []).append(Standing(number, span, expected, state, reason))
    return found


def _found(coverage: Coverage) -> Iterable[Standing]:
    """Yield the gaps of a coverage as entries. Looked at again, an edge is the entry's: none grows there."""
    for gap in (*coverage.gaps, *coverage.explained):
        span: Span | None = Span(gap.start, gap.end)
        if coverage.continued and span is not None:
            span = span.common(Span(coverage.start, coverage.end))
        if span is None:
            continue
        yield _as_entry(gap, span)


def _as_entry(gap: Gap, span: Span) -> Standing:
    expected = max(1, gap.missing)
    if gap.explanation is None:
        return Standing(None, span, expected, "open")
    state = "expired" if gap.explanation.kind == "expired" else "explained"
    evidence = {"explanation": gap.explanation.as_dict()}
    return Standing(None, span, expected, state, gap.explanation.text, evidence)


def _apply(
    cursor: Cursor, device: Device, changes: Plan, *, report: Report, now: datetime, schema: str
) -> None:
    from psycopg2 import sql
    from psycopg2.extras import Json

    ledger = sql.Identifier(schema, LEDGER)
    look = {
        "at": rfc3339(now),
        "from": rfc3339(report.start),
        "to": rfc3339(report.settled_to),
        "k": report.k,
    }
    spans = [(entry.span.start, entry.span.end) for entry in changes.close]
    came = walk(
        cursor, schema, device.type, [Stretch(device, a + _MICROSECOND, b) for a, b in spans], report.k
    )
    for entry, rows in zip(changes.close, came, strict=True):
        cursor.execute(
            sql.SQL(
                "UPDATE {} SET state = 'recovered', recovered_rows = %s,"
                " source = coalesce(source, 'late rows'), evidence = evidence || %s, changed_at = now()"
                " WHERE id = %s"
            ).format(ledger),
            (rows.present, Json({"closed": {**look, "rows": rows.present}}), entry.id),
        )
    change = sql.SQL(
        "UPDATE {} SET span = {} tstzrange(%s, %s, '()'), expected = %s, state = %s, reason = %s,"
        " evidence = evidence || %s, changed_at = now() WHERE id = %s"
    )
    # First all lose what they no longer have, then they take what they get: entries never overlap on the way.
    for common in (sql.SQL("span *"), sql.SQL("")):
        for entry in changes.update:
            values = (entry.span.start, entry.span.end, entry.expected, entry.state, entry.reason)
            evidence = Json({**entry.evidence, "last_look": look})
            cursor.execute(change.format(ledger, common), (*values, evidence, entry.id))
    for entry in changes.insert:
        cursor.execute(
            sql.SQL(
                "INSERT INTO {} (device_id, span, expected, state, reason, evidence)"
                " VALUES (%s, tstzrange(%s, %s, '()'), %s, %s, %s, %s)"
            ).format(ledger),
            (
                device.id,
                entry.span.start,
                entry.span.end,
                entry.expected,
                entry.state,
                entry.reason,
                Json({**entry.evidence, "found": look}),
            ),
        )


def _add(total: Recorded, changes: Plan, standing: Sequence[Standing]) -> Recorded:
    before = {entry.id: entry.span for entry in standing}
    fresh = [
        entry for entry in changes.insert if not any(entry.span.common(span) for span in before.values())
    ]
    grown = [
        entry
        for entry in changes.update
        if entry.span.start < before[entry.id].start or entry.span.end > before[entry.id].end
    ]
    return Recorded(
        total.new + sum(entry.state == "open" for entry in fresh),
        total.explained + sum(entry.state != "open" for entry in fresh),
        total.extended + len(grown),
        total.reduced + len(changes.update) - len(grown),
        total.closed + len(changes.close),
    )


def _verify(cursor: Cursor, report: Report, schema: str) -> None:
    """Move the watermark of the devices whose time is now looked at without a hole."""
    from psycopg2 import sql

    dropped = horizons(cursor, schema)
    cursor.execute(
        sql.SQL(_VERIFIED).format(
            state=sql.Identifier(schema, COVERAGE_STATE), registry=sql.Identifier(schema, REGISTRY)
        ),
        {
            "devices": [coverage.device.id for coverage in report.devices],
            "starts": [coverage.start for coverage in report.devices],
            "ends": [coverage.end for coverage in report.devices],
            "horizons": [dropped.get(coverage.device.type) for coverage in report.devices],
        },
    )
