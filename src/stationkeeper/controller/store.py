"""Store-and-forward: every sample is on the disk before anything else happens with it.

SQLite in WAL mode with synchronous=FULL: each commit is synced, so that neither kill -9 nor a power cut
takes a stored sample (NORMAL would lose the last commits at a power cut, and one sync per sample costs
little). Rows leave only when the database has committed them, when the store is full (`dropped` records
which), or when the database refuses the row itself (`rejected` keeps it).
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS samples (
  id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, device_id TEXT NOT NULL, boot_id TEXT NOT NULL,
  seq INTEGER NOT NULL, time_us INTEGER NOT NULL, time_quality TEXT NOT NULL, payload TEXT NOT NULL,
  UNIQUE (device_id, boot_id, seq)) STRICT;
CREATE TABLE IF NOT EXISTS rejected (
  id INTEGER PRIMARY KEY, kind TEXT NOT NULL, device_id TEXT NOT NULL, boot_id TEXT NOT NULL,
  seq INTEGER NOT NULL, time_us INTEGER NOT NULL, time_quality TEXT NOT NULL, payload TEXT NOT NULL,
  reason TEXT NOT NULL, rejected_us INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS dropped (
  id INTEGER PRIMARY KEY, device_id TEXT NOT NULL, boot_id TEXT NOT NULL, first_seq INTEGER NOT NULL,
  last_seq INTEGER NOT NULL, first_us INTEGER NOT NULL, last_us INTEGER NOT NULL,
  rows INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS counter (
  only INTEGER PRIMARY KEY CHECK (only = 1), rows INTEGER NOT NULL) STRICT;
INSERT OR IGNORE INTO counter SELECT 1, count(*) FROM samples;
CREATE TRIGGER IF NOT EXISTS counted AFTER INSERT ON samples
  BEGIN UPDATE counter SET rows = rows + 1; END;
CREATE TRIGGER IF NOT EXISTS discounted AFTER DELETE ON samples
  BEGIN UPDATE counter SET rows = rows - 1; END;
"""
INSERT = (
    "INSERT INTO samples (kind, device_id, boot_id, seq, time_us, time_quality, payload) "
    # A COMMIT that failed towards us may have succeeded on the disk; then the same sample comes again.
    "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (device_id, boot_id, seq) DO NOTHING"
)
OLDEST = (
    "SELECT id, kind, device_id, boot_id, seq, time_us, time_quality, payload "
    "FROM samples ORDER BY id LIMIT ?"
)
REJECT = (
    "INSERT OR REPLACE INTO rejected "
    "(id, kind, device_id, boot_id, seq, time_us, time_quality, payload, reason, rejected_us) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
REQUEUE = (
    "INSERT INTO samples (id, kind, device_id, boot_id, seq, time_us, time_quality, payload) "
    "SELECT id, kind, device_id, boot_id, seq, time_us, time_quality, payload FROM rejected"
)
DROPPED = "SELECT device_id, boot_id, first_seq, last_seq, first_us, last_us, rows FROM dropped ORDER BY id"
# Dropping one row at a time would make every sample of a long outage pay for a deletion.
DROP_SHARE = 100


class StoreError(Exception):
    """The store did not take or give rows (full disk, damaged file); nothing was changed."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer of a device. ``time_us`` is UTC in microseconds since 1970, at the answer."""

    kind: str
    device_id: str
    boot_id: str
    seq: int
    time_us: int
    time_quality: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """A stored sample and its place in the queue."""

    id: int
    sample: Sample


@dataclass(frozen=True, slots=True)
class Size:
    """How much waits: rows, and bytes of the file in use."""

    rows: int
    bytes: int


def _values(sample: Sample) -> tuple[Any, ...]:
    return (
        sample.kind,
        sample.device_id,
        sample.boot_id,
        sample.seq,
        sample.time_us,
        sample.time_quality,
        json.dumps(sample.payload, separators=(",", ":")),
    )


def _row(fields: Sequence[Any]) -> Row:
    number, kind, device_id, boot_id, seq, time_us, time_quality, payload = fields
    return Row(number, Sample(kind, device_id, boot_id, seq, time_us, time_quality, json.loads(payload)))


@contextmanager
def as_owner_of(path: Path) -> Iterator[None]:
    """Act as the owner of a file for a while, where root may.

    In a sticky directory, Debian (fs.protected_regular=2) refuses even root to open another's file the way
    SQLite opens its journal; and a journal that root created would lock the controller out.
    """
    owner = path.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    group = os.getegid()
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


class Store:
    """One connection to the store, for one thread at a time; every method raises only StoreError."""

    def __init__(
        self,
        path: Path,
        *,
        create: bool = True,
        max_rows: int = 2_000_000,
        max_bytes: int = 1_000_000_000,
        wait_s: float = 2.0,
    ) -> None:
        """Open the store; wait at most ``wait_s`` for another connection's transaction.

        With ``create`` a missing store is made, and one that is no database any more is kept under another
        name (``set_aside``) while a new one begins. Only its owner, the sampling side, may do that.
        """
        self.path = path
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        self.set_aside: Path | None = None
        try:
            self._connection = self._open(path, wait_s, create)
        except sqlite3.OperationalError as error:
            raise StoreError(f"{path}: {error}") from error
        except sqlite3.DatabaseError as damage:
            if not create:
                raise StoreError(f"{path}: {damage}") from damage
            # Not a database any more. Keep it for a rescue, and go on with a new one.
            self.set_aside = self._move_aside(path)
            try:
                self._connection = self._open(path, wait_s, create)
            except sqlite3.DatabaseError as error:
                raise StoreError(f"{path}: {error}") from error

    @staticmethod
    def _open(path: Path, wait_s: float, create: bool) -> sqlite3.Connection:
        mode = "rwc" if create else "rw"
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=wait_s,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            if create:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(SCHEMA)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA journal_size_limit = 4194304")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    @staticmethod
    def _move_aside(path: Path) -> Path:
        target = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(target.with_name(target.name + suffix))
        return target

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def append(self, samples: Sequence[Sample]) -> int:
        """Store samples durably in one transaction; return how many old rows had to be dropped for them."""
        with self._transaction() as connection:
            connection.executemany(INSERT, map(_values, samples))
            return self._drop_overflow(connection)

    def _drop_overflow(self, connection: sqlite3.Connection) -> int:
        size = self._size(connection)
        surplus = size.rows - self.max_rows
        if surplus <= 0 and size.bytes <= self.max_bytes:
            return 0
        rows = max(surplus, size.rows // DROP_SHARE, 1)
        oldest = connection.execute(
            "SELECT id, device_id, boot_id, seq, time_us FROM samples ORDER BY id LIMIT ?", (rows,)
        ).fetchall()
        runs: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for _, device_id, boot_id, seq, time_us in oldest:
            runs.setdefault((device_id, boot_id), []).append((seq, time_us))
        for (device_id, boot_id), lost in runs.items():
            self._record_dropped(connection, device_id, boot_id, lost)
        connection.execute("DELETE FROM samples WHERE id <= ?", (oldest[-1][0],))
        return len(oldest)

    @staticmethod
    def _record_dropped(
        connection: sqlite3.Connection, device_id: str, boot_id: str, lost: list[tuple[int, int]]
    ) -> None:
        (first_seq, first_us), (last_seq, last_us) = lost[0], lost[-1]
        longer = connection.execute(
            "UPDATE dropped SET last_seq = ?, last_us = ?, rows = rows + ? WHERE id = "
            "(SELECT max(id) FROM dropped WHERE device_id = ? AND boot_id = ?) AND last_seq < ?",
            (last_seq, last_us, len(lost), device_id, boot_id, first_seq),
        )
        if longer.rowcount == 0:
            connection.execute(
                "INSERT INTO dropped (device_id, boot_id, first_seq, last_seq, first_us, last_us, rows) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (device_id, boot_id, first_seq, last_seq, first_us, last_us, len(lost)),
            )

    def oldest(self, limit: int) -> list[Row]:
        """Return up to ``limit`` rows, the oldest first."""
        try:
            found = self._connection.execute(OLDEST, (limit,)).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error
        return [_row(fields) for fields in found]

    def delete(self, rows: Sequence[Row]) -> None:
        """Forget rows that the database has committed, and give free pages back to the file system."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM samples WHERE id = ?", [(row.id,) for row in rows])
        try:
            self._connection.execute("PRAGMA incremental_vacuum(1000)").fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error

    def reject(self, row: Row, reason: str) -> None:
        """Move a row that the database will never take to `rejected`."""
        with self._transaction() as connection:
            values = (row.id, *_values(row.sample), reason, time.time_ns() // 1000)
            connection.execute(REJECT, values)
            connection.execute("DELETE FROM samples WHERE id = ?", (row.id,))

    def requeue(self) -> int:
        """Put all rejected rows back into the queue and return their number."""
        with self._transaction() as connection:
            connection.execute(REQUEUE)
            return connection.execute("DELETE FROM rejected").rowcount

    @staticmethod
    def _size(connection: sqlite3.Connection) -> Size:
        rows, pages, free, page_bytes = connection.execute(
            "SELECT rows, page_count, freelist_count, page_size "
            "FROM counter, pragma_page_count(), pragma_freelist_count(), pragma_page_size()"
        ).fetchone()
        return Size(rows, (pages - free) * page_bytes)

    def size(self) -> Size:
        """Return how much waits."""
        try:
            return self._size(self._connection)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error

    def summary(self) -> dict[str, Any]:
        """Return the state for an operator: size, the oldest unsent row, what was rejected and dropped."""
        try:
            size = self._size(self._connection)
            (rejected,) = self._connection.execute("SELECT count(*) FROM rejected").fetchone()
            dropped = self._connection.execute(DROPPED).fetchall()
            oldest = self.oldest(1)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error
        names = ("device_id", "boot_id", "first_seq", "last_seq", "first_us", "last_us", "rows")
        return {
            "rows": size.rows,
            "bytes": size.bytes,
            "oldest_us": oldest[0].sample.time_us if oldest else None,
            "rejected_rows": rejected,
            "dropped": [dict(zip(names, entry, strict=True)) for entry in dropped],
        }
