"""Store-and-forward: every sample is on the disk before anything else happens with it.

SQLite in WAL mode with synchronous=FULL: each commit is synced, so that neither kill -9 nor a power cut
takes a stored sample (NORMAL would lose the last commits at a power cut, and one sync per sample costs
little). A row stops waiting only when the database has committed it, when the store is full (`dropped`
records which), or when the database refuses the row itself (`rejected` keeps it). Committed rows are kept for
a while in case the database loses them; they are the first to go when space is needed.
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

from stationkeeper.controller import known_gaps
from stationkeeper.controller.clock import Stamp
from stationkeeper.controller.known_gaps import Gap
from stationkeeper.controller.store_schema import (
    CORRECT,
    INSERT,
    NEWEST,
    OLDEST,
    REJECT,
    REQUEUE,
    prepare,
)

# Dropping one row at a time would make every sample of a long outage pay for a deletion.
DROP_SHARE = 100
# Rows whose upload was acknowledged go in portions, so that nobody waits long for the lock.
PORTION = 1000
# How long rows with an uncertain time wait for a clock that can correct them.
HOLD_BACK_US = 600_000_000


class StoreError(Exception):
    """The store did not take or give rows (full disk, damaged file); nothing was changed."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer of a device. ``time_us`` is UTC in microseconds since 1970, at the answer.

    ``monotonic_us`` is the same instant in microseconds since the start ``host_boot`` of the host.
    """

    kind: str
    device_id: str
    boot_id: str
    seq: int
    time_us: int
    time_quality: str
    payload: dict[str, Any]
    monotonic_us: int | None = None
    host_boot: str = ""


@dataclass(frozen=True, slots=True)
class HoldBack:
    """Which rows must wait for a better clock: unsynchronised ones of a start of the host, after a moment."""

    host_boot: str
    after_us: int

    @classmethod
    def of(cls, stamp: Stamp) -> HoldBack:
        """Return what to hold back at an instant."""
        return cls(stamp.host_boot, stamp.monotonic_us - HOLD_BACK_US)


NOBODY = HoldBack("none", 0)


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
        sample.monotonic_us,
        sample.host_boot,
    )


def _row(fields: Sequence[Any]) -> Row:
    number, kind, device_id, boot_id, seq, time_us, time_quality, payload, *host = fields
    values = json.loads(payload)
    return Row(number, Sample(kind, device_id, boot_id, seq, time_us, time_quality, values, *host))


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
                prepare(connection)
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
        # Rows that the database has go first: that loses nothing.
        while size.bytes > self.max_bytes and self._forget(connection, "uploaded_us IS NOT NULL", ()):
            size = self._size(connection)
        surplus = size.rows - self.max_rows
        if surplus <= 0 and size.bytes <= self.max_bytes:
            return 0
        rows = max(surplus, size.rows // DROP_SHARE, 1)
        oldest = connection.execute(
            "SELECT id, device_id, boot_id, seq, time_us FROM samples WHERE uploaded_us IS NULL "
            "ORDER BY id LIMIT ?",
            (rows,),
        ).fetchall()
        known_gaps.record(connection, [entry[1:] for entry in oldest], "store full")
        connection.executemany("DELETE FROM samples WHERE id = ?", [(entry[0],) for entry in oldest])
        return len(oldest)

    @staticmethod
    def _forget(connection: sqlite3.Connection, condition: str, arguments: tuple[int, ...]) -> int:
        return connection.execute(
            "DELETE FROM samples WHERE id IN (SELECT id FROM samples "  # noqa: S608 (conditions of this file)
            f"WHERE {condition} ORDER BY uploaded_us, id LIMIT {PORTION})",
            arguments,
        ).rowcount

    def record_lost(self, samples: Sequence[Sample], reason: str) -> None:
        """Record samples that never came into the store as known gaps."""
        lost = [(sample.device_id, sample.boot_id, sample.seq, sample.time_us) for sample in samples]
        with self._transaction() as connection:
            known_gaps.record(connection, lost, reason)

    def oldest(self, limit: int, hold_back: HoldBack = NOBODY) -> list[Row]:
        """Return up to ``limit`` rows that wait, the oldest first."""
        return self._rows(OLDEST, (hold_back.host_boot, hold_back.after_us, limit))

    def newest(self, limit: int, after: int, hold_back: HoldBack = NOBODY) -> list[Row]:
        """Return up to ``limit`` rows that wait and came after the row ``after``, the newest first."""
        return self._rows(NEWEST, (hold_back.host_boot, hold_back.after_us, after, limit))

    def _rows(self, statement: str, arguments: tuple[Any, ...]) -> list[Row]:
        try:
            found = self._connection.execute(statement, arguments).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error
        return [_row(fields) for fields in found]

    def uploaded(self, rows: Sequence[Row]) -> None:
        """Take in that the database has committed these rows."""
        now_us = time.time_ns() // 1000
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE samples SET uploaded_us = ? WHERE id = ?", [(now_us, row.id) for row in rows]
            )

    def forget_uploaded(self, retention_s: float) -> int:
        """Forget a portion of the rows committed longer ago than this, and give their space back."""
        before_us = time.time_ns() // 1000 - int(retention_s * 1e6)
        with self._transaction() as connection:
            forgotten = self._forget(connection, "uploaded_us <= ?", (before_us,))
        try:
            self._connection.execute("PRAGMA incremental_vacuum(1000)").fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error
        return forgotten

    def send_again(self, since_us: int) -> int:
        """Let kept rows from this time on wait again, for a database that has lost them."""
        with self._transaction() as connection:
            return connection.execute(
                "UPDATE samples SET uploaded_us = NULL WHERE uploaded_us IS NOT NULL AND time_us >= ?",
                (since_us,),
            ).rowcount

    def correct(self, offset_us: int, host_boot: str) -> int:
        """Give rows of this start of the host, taken before the clock was right, the time they had.

        ``offset_us`` is UTC less the time since that start. Rows of earlier starts stay flagged.
        """
        with self._transaction() as connection:
            return connection.execute(CORRECT, (offset_us, host_boot)).rowcount

    def gaps(self, limit: int) -> list[Gap]:
        """Return up to ``limit`` known gaps that the database does not have as they are now."""
        try:
            return known_gaps.waiting(self._connection, limit)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error

    def gaps_uploaded(self, gaps: Sequence[Gap]) -> None:
        """Take in that the database has these gaps."""
        with self._transaction() as connection:
            known_gaps.uploaded(connection, gaps)

    def reject(self, row: Row, reason: str) -> None:
        """Move a row that the database will never take to `rejected`."""
        with self._transaction() as connection:
            values = (row.id, *_values(row.sample)[:7], reason, time.time_ns() // 1000)
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
            dropped = known_gaps.every(self._connection)
            (kept,) = self._connection.execute(
                "SELECT count(*) FROM samples WHERE uploaded_us IS NOT NULL"
            ).fetchone()
            unsent = len(known_gaps.waiting(self._connection, -1))
            oldest = self.oldest(1)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error
        return {
            "rows": size.rows,
            "bytes": size.bytes,
            "oldest_us": oldest[0].sample.time_us if oldest else None,
            "oldest_seq": oldest[0].sample.seq if oldest else None,
            "oldest_device_id": oldest[0].sample.device_id if oldest else None,
            "rejected_rows": rejected,
            "kept_rows": kept,
            "dropped": [gap.as_dict() for gap in dropped],
            "dropped_not_uploaded": unsent,
        }
