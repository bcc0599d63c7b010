"""The ledger's entries as a worker holds them: a lease, renewed with every batch, then a final state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from psycopg2 import sql
from psycopg2.extras import Json

from stationkeeper.telemetry.source import REGISTRY, TelemetryError, changing

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

_CLAIM = """
UPDATE {ledger} AS entry SET state = 'claimed', lease_owner = %(owner)s, attempts = attempts + 1,
    lease_until = now() + make_interval(secs => %(lease)s), changed_at = now()
FROM (SELECT id FROM {ledger} AS free
      WHERE (state = 'open' OR (state = 'claimed' AND lease_until < now())) AND NOT id = ANY (%(seen)s)
        AND (%(sites)s::text[] IS NULL
             OR device_id IN (SELECT id FROM {registry} WHERE site = ANY (%(sites)s)))
      ORDER BY upper(span) DESC LIMIT %(limit)s FOR UPDATE SKIP LOCKED) AS free
WHERE entry.id = free.id
RETURNING entry.id, device_id::text, lower(span), upper(span), expected, attempts
"""


@dataclass(frozen=True)
class Entry:
    """A claimed entry. ``attempts`` tells this lease from any other on the same entry."""

    id: int
    device_id: str
    start: datetime
    end: datetime
    expected: int
    attempts: int


def claim(
    connection: Connection,
    owner: str,
    *,
    schema: str,
    lease_s: float,
    limit: int,
    sites: Sequence[str] | None,
    seen: Sequence[int],
) -> list[Entry]:
    """Take entries that are open or whose lease has run out, newest first, but for those already ``seen``."""
    values = {
        "owner": owner,
        "lease": lease_s,
        "limit": limit,
        "sites": list(sites) if sites else None,
        "seen": list(seen),
    }
    with changing(connection, timeout_s=30) as cursor:
        cursor.execute(sql.SQL(_CLAIM).format(**_names(schema)), values)
        rows = cursor.fetchall()
    found = [Entry(i, d, a.astimezone(UTC), b.astimezone(UTC), n, t) for i, d, a, b, n, t in rows]
    return sorted(found, key=lambda entry: entry.end, reverse=True)


def renew(cursor: Cursor, entry: Entry, owner: str, *, schema: str, lease_s: float) -> None:
    """Prolong a lease, and lock the entry until the transaction ends. Raises TelemetryError if it is lost."""
    cursor.execute(
        sql.SQL(
            "UPDATE {ledger} SET lease_until = now() + make_interval(secs => %s)"
            " WHERE id = %s AND state = 'claimed' AND lease_owner = %s AND attempts = %s"
        ).format(**_names(schema)),
        (lease_s, entry.id, owner, entry.attempts),
    )
    if cursor.rowcount != 1:
        raise TelemetryError(
            f"the lease of gap {entry.id} ran out and another worker has it; allow more than {lease_s:g} s"
        )


def settle(
    cursor: Cursor,
    entry: Entry,
    *,
    schema: str,
    state: str,
    recovered_rows: int,
    source: str | None,
    reason: str | None,
    evidence: Mapping[str, Any],
) -> None:
    """Write what became of an entry and end its lease; `renew` came before in the same transaction."""
    cursor.execute(
        sql.SQL(
            "UPDATE {ledger} SET state = %s, recovered_rows = %s, source = %s, reason = %s,"
            " evidence = evidence || %s, lease_owner = NULL, lease_until = NULL, changed_at = now()"
            " WHERE id = %s"
        ).format(**_names(schema)),
        (state, recovered_rows, source, reason, Json(dict(evidence)), entry.id),
    )


def add(
    cursor: Cursor,
    entry: Entry,
    start: datetime,
    end: datetime,
    expected: int,
    *,
    schema: str,
    state: str,
    reason: str | None,
) -> int:
    """Add an entry for a part of another one that is still missing; return its number."""
    cursor.execute(
        sql.SQL(
            "INSERT INTO {ledger} (device_id, span, expected, state, reason, evidence)"
            " VALUES (%s, tstzrange(%s, %s, '()'), %s, %s, %s, %s) RETURNING id"
        ).format(**_names(schema)),
        (entry.device_id, start, end, expected, state, reason, Json({"rest_of": entry.id})),
    )
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def release(connection: Connection, entries: Sequence[Entry], owner: str, *, schema: str) -> None:
    """Give entries back that this worker holds and did not settle."""
    with changing(connection, timeout_s=30) as cursor:
        for entry in entries:
            cursor.execute(
                sql.SQL(
                    "UPDATE {ledger}"
                    " SET state = 'open', lease_owner = NULL, lease_until = NULL, changed_at = now()"
                    " WHERE id = %s AND state = 'claimed' AND lease_owner = %s AND attempts = %s"
                ).format(**_names(schema)),
                (entry.id, owner, entry.attempts),
            )


def _names(schema: str) -> dict[str, sql.Identifier]:
    return {
        "ledger": sql.Identifier(schema, "mg_gap_ledger"),
        "registry": sql.Identifier(schema, REGISTRY),
    }
