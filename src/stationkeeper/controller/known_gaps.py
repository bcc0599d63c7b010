"""Known gaps in the store: which samples were given up, and whether the database has been told.

The functions work on a connection of the store, within its transaction, and raise sqlite3.Error.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Device, run, sequence number, time in microseconds.
Lost = tuple[str, str, int, int]
_DROPPED = "SELECT id, device_id, boot_id, first_seq, last_seq, first_us, last_us, rows, reason FROM dropped"


@dataclass(frozen=True, slots=True)
class Gap:
    """Samples of one device and run that were given up, both ends included, and why.

    ``id`` is its place in the store. Times are UTC in microseconds since 1970, as the samples had them.
    """

    id: int

    device_id: str
    boot_id: str
    first_seq: int
    last_seq: int
    first_us: int
    last_us: int
    rows: int
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for an operator."""
        return {key: value for key, value in asdict(self).items() if key != "id"}


def _ranges(lost: Iterable[Lost]) -> Iterator[list[Lost]]:
    """Group samples by device and run, and split where sequence numbers are missing in between."""
    part: list[Lost] = []
    for entry in sorted(lost):
        if part and (entry[:2] != part[-1][:2] or entry[2] != part[-1][2] + 1):
            yield part
            part = []
        part.append(entry)
    if part:
        yield part


def record(connection: sqlite3.Connection, lost: Iterable[Lost], reason: str) -> None:
    """Record lost samples; a range that goes on where the last one of its run ended makes that one longer."""
    for part in _ranges(lost):
        (device_id, boot_id, first_seq, first_us), (_, _, last_seq, last_us) = part[0], part[-1]
        longer = connection.execute(
            "UPDATE dropped SET last_seq = ?, last_us = ?, rows = rows + ? "
            "WHERE device_id = ? AND boot_id = ? AND reason = ? AND last_seq = ? - 1",
            (last_seq, last_us, len(part), device_id, boot_id, reason, first_seq),
        )
        if longer.rowcount == 0:
            connection.execute(
                "INSERT INTO dropped (device_id, boot_id, first_seq, last_seq, first_us, last_us, rows, "
                "reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (device_id, boot_id, first_seq, last_seq, first_us, last_us, len(part), reason),
            )


def every(connection: sqlite3.Connection) -> list[Gap]:
    """Return all known gaps."""
    found = connection.execute(f"{_DROPPED} ORDER BY id")
    return [Gap(*entry) for entry in found]


def waiting(connection: sqlite3.Connection, limit: int) -> list[Gap]:
    """Return up to ``limit`` gaps that the database does not have as they are now; all with -1."""
    found = connection.execute(f"{_DROPPED} WHERE uploaded_rows <> rows ORDER BY id LIMIT ?", (limit,))
    return [Gap(*entry) for entry in found]


def uploaded(connection: sqlite3.Connection, gaps: Sequence[Gap]) -> None:
    """Take in that the database has these gaps."""
    connection.executemany(
        "UPDATE dropped SET uploaded_rows = ? WHERE id = ?", [(gap.rows, gap.id) for gap in gaps]
    )
