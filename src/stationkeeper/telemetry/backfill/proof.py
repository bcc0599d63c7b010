"""Count and checksum of rows by hour: equal in two places only if the rows are.

The checksum is the exclusive-or of PostgreSQL's own 64-bit hash of each row (`hash_record_extended`, the same
from version 14 on) with its columns ordered by name, so neither the order of rows nor of columns matters. Two
equal rows would cancel out; the primary key (device, time) forbids them in tables, and the count shows them
elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stationkeeper.telemetry.backfill.tables import Table
from stationkeeper.telemetry.source import TelemetryError, rfc3339

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.sql import Composable


@dataclass(frozen=True)
class Hour:
    """Number of rows in an hour, and their checksum (64 bits, signed)."""

    rows: int
    hash: int


Proof = Mapping[datetime, Hour]

_QUERY = """
SELECT date_trunc('hour', r.time, 'UTC'), count(*), bit_xor(hash_record_extended(ROW({columns}), 0))
FROM {rows} AS r WHERE r.device_id = %(device)s AND r.time >= %(start)s AND r.time < %(end)s {also}
GROUP BY 1
"""


def prove(
    cursor: Cursor,
    table: Table,
    device: str,
    start: datetime,
    end: datetime,
    *,
    rows: Composable | None = None,
    also: Composable | None = None,
) -> dict[datetime, Hour]:
    """Return the proof of one device's rows in [start, end), by hour (UTC).

    ``rows`` is another relation with the columns of ``table``; ``also`` is a further condition on it (``r``).
    """
    from psycopg2 import sql

    query = sql.SQL(_QUERY).format(
        columns=table.column_list("r", by_name=True), rows=rows or table.identifier, also=also or sql.SQL("")
    )
    cursor.execute(query, {"device": device, "start": start, "end": end})
    return {hour.astimezone(UTC): Hour(int(count), int(hash_)) for hour, count, hash_ in cursor.fetchall()}


def total(proof: Proof) -> int:
    """Return the number of rows of all hours."""
    return sum(hour.rows for hour in proof.values())


def digest(proof: Proof) -> str:
    """Return one short text that is equal for equal proofs."""
    text = "\n".join(f"{rfc3339(at)} {hour.rows} {hour.hash}" for at, hour in sorted(proof.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def differences(left: Proof, right: Proof) -> list[datetime]:
    """Return the hours that are not equal."""
    return sorted(hour for hour in left.keys() | right.keys() if left.get(hour) != right.get(hour))


def require_equal(offered: Proof, found: Proof, *, offered_by: str, found_in: str) -> None:
    """Raise TelemetryError that names the first hour where two proofs differ."""
    for hour in differences(offered, found):
        raise TelemetryError(
            f"the hour {rfc3339(hour)} has {_text(offered.get(hour))} in {offered_by}, but "
            f"{_text(found.get(hour))} in {found_in}"
        )


def as_json(proof: Proof) -> dict[str, list[Any]]:
    """Return plain data: hour to [rows, hash as text]. JSON's numbers are too small for the hash."""
    return {rfc3339(at): [hour.rows, str(hour.hash)] for at, hour in sorted(proof.items())}


def _text(hour: Hour | None) -> str:
    return "no row" if hour is None else f"{hour.rows} rows (checksum {hour.hash})"
