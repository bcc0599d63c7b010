"""Prove from the copies in ``ops.audit`` alone that a chain is whole, on a host that no control node rules.

What these copies cannot show - records that are gone from their end - a look at how many there were shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stationkeeper.audit import record
from stationkeeper.audit.keys import KeyFileError, KeyRing
from stationkeeper.audit.verify import Report, StoredRow, check_signature

#: More problems than these are not told, which bounds the memory.
LIMIT = 1000


def check(chain: str, rows: Iterable[StoredRow], trusted: KeyRing) -> Report:
    """Check the copies of one chain, which come in the order of their numbers, one at a time.

    Without trusted keys the key is the one that the chain's first record names: then the chain is only shown
    to be of one piece. After 1,000 problems it looks no further.
    """
    report = Report(chain=chain)
    ring, number, before = trusted, 0, record.GENESIS
    for row in rows:
        entry = _entry(chain, row, report)
        if row.seq != number + 1:
            report.add("missing", f"records {number + 1} to {row.seq - 1} have no copy", number + 1)
        elif entry is not None and before and entry["prev"] != before:
            report.add("link", f"record {row.seq} does not carry the hash of the record before it", row.seq)
        if not len(ring) and row.seq == 1 and entry is not None:
            ring = _named(entry)
        if entry is not None:
            check_signature(entry, ring, report)
            report.first_at = report.first_at or entry["at"]
            report.last_at = entry["at"]
        number, before = row.seq, entry["hash"] if entry is not None else ""
        report.records += 1
        if len(report.findings) >= LIMIT:
            break
    return report


def _entry(chain: str, row: StoredRow, report: Report) -> dict[str, Any] | None:
    """Return the record that a row is the copy of, None when it is of none."""
    try:
        entry = record.parse(row.record.encode())
    except record.RecordError as error:
        report.add("malformed", f"the copy of record {row.seq} {error}", row.seq)
        return None
    if record.canonical(entry).decode("ascii") != row.record:
        report.add("changed", f"the copy of record {row.seq} is not written in canonical form", row.seq)
    if (entry["chain"], entry["seq"], entry["hash"]) != (chain, row.seq, row.hash):
        report.add("database", f"what is stored as record {row.seq} is another one", row.seq)
        return None
    return entry


def _named(first: dict[str, Any]) -> KeyRing:
    try:
        return KeyRing.of([str(first["data"].get("public_key", ""))])
    except KeyFileError:
        return KeyRing()
