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

from psycopg2 import sql

from stationkeeper.telemetry.backfill.tables import Table
from stationkeeper.telemetry.source import TelemetryError, rfc3339

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)


@dataclass(frozen=True)
class Hour:
    """Number of rows in an hour, and their checksum (64 bits, signed)."""

    rows: int
    hash: int


Proof = Mapping[datetime, Hour]

HOUR_OF = sql.SQL("date_bin('1 hour', {0}.time, timestamptz '1970-01-01T00:00Z')")
# The hash comes first, by itself: grouping whole rows would sort them, which costs more than all the rest.
_QUERY = """
SELECT hour, count(*), bit_xor(hash) FROM (
    SELECT {hour} AS hour, {hash} AS hash
    FROM {rows} AS r
    WHERE r.device_id = %(device)s AND r.time >= %(start)s AND r.time < %(end)s OFFSET 0) AS hashed
GROUP BY 1
"""


def prove(
    cursor: Cursor,
    table: Table,
    device: str,
    start: datetime,
    end: datetime,
    *,
    rows: sql.Composable | None = None,
) -> dict[datetime, Hour]:
    """Return the proof of one device's rows in [start, end), by hour (UTC).

    ``rows`` is another relation with the columns of ``table``.
    """
    query = sql.SQL(_QUERY).format(
        hour=HOUR_OF.format(sql.Identifier("r")),
        hash=row_hash(table, "r"),
        rows=rows or table.identifier,
    )
    cursor.execute(query, {"device": device, "start": start, "end": end})
    return {hour.astimezone(UTC): Hour(int(count), int(hash_)) for hour, count, hash_ in cursor.fetchall()}


def row_hash(table: Table, alias: str) -> sql.Composable:
    """Return the expression for the hash of a row."""
    return sql.SQL("hash_record_extended(ROW({}), 0)").format(table.column_list(alias, by_name=True))


def together(left: Proof, right: Proof) -> dict[datetime, Hour]:
    """Return the proof of two sets of rows that have none in common."""
    none = Hour(0, 0)
    return {
        at: Hour(
            left.get(at, none).rows + right.get(at, none).rows,
            left.get(at, none).hash ^ right.get(at, none).hash,
        )
        for at in left.keys() | right.keys()
    }


def without(proof: Proof, part: Proof) -> dict[datetime, Hour]:
    """Return the proof of a set of rows without a part of it; hours that become empty are left out."""
    rest = {
        at: Hour(hour.rows - part[at].rows, hour.hash ^ part[at].hash) if at in part else hour
        for at, hour in proof.items()
    }
    return {at: hour for at, hour in rest.items() if hour.rows}


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


class OfferError(TelemetryError):
    """What a source sent is not what it promised: it is not used any more."""


def require_equal(offered: Proof, found: Proof, *, offered_by: str, found_in: str) -> None:
    """Raise OfferError that names the first hour where two proofs differ."""
    for hour in differences(offered, found):
        raise OfferError(
            f"the hour {rfc3339(hour)} has {_text(offered.get(hour))} in {offered_by}, but "
            f"{_text(found.get(hour))} in {found_in}"
        )


def as_json(proof: Proof) -> dict[str, list[Any]]:
    """Return plain data: hour to [rows, hash as text]. JSON's numbers are too small for the hash."""
    return {rfc3339(at): [hour.rows, str(hour.hash)] for at, hour in sorted(proof.items())}


def _text(hour: Hour | None) -> str:
    return "no row" if hour is None else f"{hour.rows} rows (checksum {hour.hash})"
