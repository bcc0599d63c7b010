"""The ledger of gaps: who works on one, what became of it, and totals that add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stationkeeper.controller.windows import Window as WeeklyWindow
from stationkeeper.telemetry.gaps import DEFAULT_K, DEFAULT_SETTLE_S, find_gaps
from stationkeeper.telemetry.ledger_record import Recorded, foresee, record, require_ledger
from stationkeeper.telemetry.recovered import recovered_rows
from stationkeeper.telemetry.report import Report
from stationkeeper.telemetry.source import (
    LEDGER,
    REGISTRY,
    Device,
    TelemetryError,
    changing,
    snapshot,
)

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

__all__ = [
    "Entry",
    "Recorded",
    "Totals",
    "claim",
    "foresee",
    "record",
    "release",
    "renew",
    "settle",
    "totals",
    "totals_of",
]

#: States in which an entry can be left by the worker that holds it.
SETTLED = frozenset({"open", "recovered", "partial", "unrecoverable", "explained", "expired"})
_TIMEOUT_S = 30.0

_CLAIM = """
UPDATE {ledger} AS entry SET state = 'claimed', lease_owner = %(owner)s, attempts = attempts + 1,
    lease_until = now() + make_interval(secs => %(lease)s), changed_at = now()
FROM (SELECT id FROM {ledger} AS free
      WHERE (state = 'open' OR (state = 'claimed' AND lease_until < now())) AND NOT id = ANY (%(seen)s)
        AND (%(sites)s::text[] IS NULL
             OR device_id IN (SELECT id FROM {registry} WHERE site = ANY (%(sites)s)))
      ORDER BY CASE WHEN %(newest)s THEN upper(span) END DESC, lower(span)
      LIMIT %(limit)s FOR UPDATE SKIP LOCKED) AS free
WHERE entry.id = free.id
RETURNING entry.id, device_id::text, lower(span), upper(span), expected, attempts
"""
# The number of attempts grows with every claim, so it is the token of one lease.
_RENEW = """
UPDATE {ledger} SET lease_until = now() + make_interval(secs => %s)
WHERE id = %s AND state = 'claimed' AND attempts = %s
"""
_SETTLE = """
UPDATE {ledger} SET state = %s, recovered_rows = %s, source = %s, reason = %s, evidence = evidence || %s,
    lease_owner = NULL, lease_until = NULL, changed_at = now()
WHERE id = %s AND state = 'claimed' AND attempts = %s
"""
_RELEASE = """
UPDATE {ledger} SET state = 'open', lease_owner = NULL, lease_until = NULL, changed_at = now()
WHERE id = %s AND state = 'claimed' AND attempts = %s
"""


@dataclass(frozen=True)
class Entry:
    """A claimed entry, no row between ``start`` and ``end``. ``attempts`` tells this lease from any other."""

    id: int
    device_id: str
    start: datetime
    end: datetime
    expected: int
    attempts: int


@dataclass(frozen=True)
class Share:
    """Rows of one device in a window: ``expected = present + recovered + explained + open``, always.

    ``expected`` are the rows that are there and those that lack between them. What the cadence alone asks for
    is ``nominal``: jitter makes it differ by one or two, a wrong cadence in the registry by many.
    """

    device: Device
    present: int
    recovered: int
    explained: int
    open: int
    nominal: int

    @property
    def expected(self) -> int:
        """All rows that there should be."""
        return self.present + self.recovered + self.explained + self.open


@dataclass(frozen=True)
class Totals:
    """The shares of all devices in a window and their sums."""

    start: datetime
    end: datetime
    devices: tuple[Share, ...]

    @property
    def expected(self) -> int:
        """Sum over the devices."""
        return sum(share.expected for share in self.devices)

    def of(self, state: str) -> int:
        """Return the sum of ``present``, ``recovered``, ``explained``, ``open`` or ``nominal``."""
        return sum(int(getattr(share, state)) for share in self.devices)

    def as_dict(self) -> dict[str, int]:
        """Return the sums by name."""
        states = ("present", "recovered", "explained", "open", "nominal")
        return {"expected": self.expected} | {state: self.of(state) for state in states}


def claim(
    connection: Connection,
    owner: str,
    *,
    lease_s: float,
    limit: int,
    sites: Sequence[str] | None = None,
    seen: Sequence[int] = (),
    newest_first: bool = True,
    schema: str = "flux",
) -> list[Entry]:
    """Take up to ``limit`` entries that are open, or whose lease has run out, but for those ``seen`` already.

    Two workers never get the same one. The lease lasts ``lease_s`` seconds. Raises TelemetryError.
    """
    values = {
        "owner": owner,
        "lease": lease_s,
        "limit": limit,
        "sites": list(sites) if sites else None,
        "seen": list(seen),
        "newest": newest_first,
    }
    with changing(connection, timeout_s=_TIMEOUT_S) as cursor:
        require_ledger(cursor, schema)
        cursor.execute(_sql(_CLAIM, schema), values)
        rows = cursor.fetchall()
    found = [Entry(i, d, a.astimezone(UTC), b.astimezone(UTC), n, t) for i, d, a, b, n, t in rows]
    return sorted(found, key=lambda entry: (entry.end, entry.id), reverse=newest_first)


def renew(cursor: Cursor, entry: Entry, *, lease_s: float, schema: str = "flux") -> None:
    """Prolong a lease, and lock the entry until the transaction ends. Raises TelemetryError if it is lost."""
    cursor.execute(_sql(_RENEW, schema), (lease_s, entry.id, entry.attempts))
    _require_held(cursor, entry)


def settle(
    cursor: Cursor,
    entry: Entry,
    *,
    state: str,
    recovered_rows: int,
    source: str | None = None,
    reason: str | None = None,
    evidence: Mapping[str, Any] | None = None,
    schema: str = "flux",
) -> None:
    """Write what became of an entry and end its lease, in the caller's transaction.

    Raises TelemetryError when another worker has taken it over, for an unknown state, and for a final state
    without a reason: rows that nobody will bring need one.
    """
    from psycopg2.extras import Json

    if state not in SETTLED:
        raise TelemetryError(f"a gap cannot be left as {state!r}; use one of {', '.join(sorted(SETTLED))}")
    if state in {"unrecoverable", "explained", "expired"} and not (reason or "").strip():
        raise TelemetryError(f"gap {entry.id} cannot become {state} without a reason")
    values = (state, recovered_rows, source, reason, Json(dict(evidence or {})), entry.id, entry.attempts)
    cursor.execute(_sql(_SETTLE, schema), values)
    _require_held(cursor, entry)


def release(connection: Connection, entries: Sequence[Entry], *, schema: str = "flux") -> None:
    """Give entries back that this worker still holds."""
    with changing(connection, timeout_s=_TIMEOUT_S) as cursor:
        for entry in entries:
            cursor.execute(_sql(_RELEASE, schema), (entry.id, entry.attempts))


def totals(
    connection: Connection,
    start: datetime,
    end: datetime,
    *,
    sites: Sequence[str] | None = None,
    k: float = DEFAULT_K,
    settle_s: float = DEFAULT_SETTLE_S,
    weekly: Mapping[str, Sequence[WeeklyWindow]] | None = None,
    schema: str = "flux",
) -> Totals:
    """Look at the rows of [start, end) and return what became of all that should be there.

    Raises TelemetryError as `find_gaps` does.
    """
    report = find_gaps(
        connection, start, end, sites=sites, k=k, settle_s=settle_s, weekly=weekly, schema=schema
    )
    return totals_of(connection, report, schema=schema)


def totals_of(connection: Connection, report: Report, *, schema: str = "flux") -> Totals:
    """Return the totals of a report: its rows that a back-fill brought are told from those that came live."""
    with snapshot(connection, timeout_s=_TIMEOUT_S) as cursor:
        require_ledger(cursor, schema)
        recovered = recovered_rows(cursor, report, schema=schema)
    shares = []
    for coverage in report.devices:
        batches = recovered.get(coverage.device.id, ())
        brought = min(coverage.present, sum(rows for _, _, rows in batches))
        shares.append(
            Share(
                coverage.device,
                present=coverage.present - brought,
                recovered=brought,
                explained=coverage.explained_missing,
                open=coverage.missing,
                nominal=coverage.expected,
            )
        )
    return Totals(report.start, report.settled_to, tuple(shares))


def _require_held(cursor: Cursor, entry: Entry) -> None:
    if cursor.rowcount != 1:
        raise TelemetryError(f"the lease of gap {entry.id} ran out and another worker may have it")


def _sql(text: str, schema: str) -> Any:
    from psycopg2 import sql

    return sql.SQL(text).format(
        ledger=sql.Identifier(schema, LEDGER), registry=sql.Identifier(schema, REGISTRY)
    )
