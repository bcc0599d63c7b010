"""What one signed and chained audit record costs, beside a bare append with fsync on the same disk.

    python bench/audit_chain.py

Prints seconds for each and their ratio, measured in turns so that other work on the machine meets both.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from stationkeeper.audit.chain import Chain
from stationkeeper.audit.paths import AuditPaths

ROUNDS, RECORDS = 4, 250


def bare_writes(path: Path) -> float:
    """Return the seconds of bare appends with fsync."""
    began = time.monotonic()
    with path.open("ab", buffering=0) as stream:
        for _ in range(RECORDS):
            stream.write(b"x" * 500)
            os.fsync(stream.fileno())
    return time.monotonic() - began


def records(chain: Chain) -> float:
    """Return the seconds of as many records."""
    began = time.monotonic()
    for number in range(RECORDS):
        chain.append("CHANGE", "bench", {"task": "Write the configuration", "number": number})
    return time.monotonic() - began


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as directory:
        chain, bare = Chain(AuditPaths(Path(directory) / "audit")), Path(directory) / "bare"
        floor_s = taken_s = 0.0
        for _ in range(ROUNDS):
            floor_s += bare_writes(bare)
            taken_s += records(chain)
    count = ROUNDS * RECORDS
    print(f"floor, {count} bare appends with fsync: {floor_s:.3f} s")
    print(f"{count} audit records: {taken_s:.3f} s, ratio {taken_s / floor_s:.1f}")


if __name__ == "__main__":
    main()
