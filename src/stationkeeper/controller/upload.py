"""Uploads the store to the database: in batches, each row exactly once.

Two lanes take turns: what is new, the newest first, so that the present is seen at once after an outage; and
the backlog, the oldest first. Runs in a thread with connections of its own, so that a slow or absent database
never delays control. A row stops waiting after the COMMIT was acknowledged; a COMMIT whose acknowledgement
got lost is found again as a conflict with the same boot and sequence number.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql
from psycopg2.extras import execute_values

from stationkeeper.controller.clock import SYNCHRONISED, Clock, Stamp
from stationkeeper.controller.merge import ConfigError
from stationkeeper.controller.metrics import Metrics
from stationkeeper.controller.store import HoldBack, Row, Store, StoreError
from stationkeeper.database.connection import connect

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

LOG = logging.getLogger("stationkeeper.controller.upload")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KEY_COLUMNS = ("time", "device_id", "boot_id", "seq", "time_quality")
TABLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "bess": (
        "mg_bess_readings",
        (
            "heartbeat",
            "power_kw",
            "setpoint_kw",
            "soe_percent",
            "voltage_v",
            "frequency_hz",
            "temperature_c",
            "status",
            "alarms",
        ),
    ),
    "meter": (
        "mg_meter_readings",
        ("heartbeat", "power_kw", "voltage_v", "frequency_hz", "energy_import_kwh", "energy_export_kwh"),
    ),
}
STATEMENT_TIMEOUT_MS = 30_000
GAPS_AT_ONCE = 500
# A gap may still grow while it is the store's oldest end; what was told before stays true.
TELL_GAPS = """
INSERT INTO flux.mg_known_gaps AS known
  (device_id, boot_id, first_seq, last_seq, first_time, last_time, samples, reason) VALUES %s
ON CONFLICT (device_id, boot_id, first_seq) DO UPDATE
  SET last_seq = EXCLUDED.last_seq, last_time = EXCLUDED.last_time, samples = EXCLUDED.samples
  WHERE EXCLUDED.last_seq > known.last_seq
"""
# An older database does not have the table; then the gaps wait in the store.
CAN_TELL_GAPS = (
    "SELECT coalesce(has_table_privilege(to_regclass('flux.mg_known_gaps'), 'INSERT, UPDATE'), false)"
)
# Rows that came while the clock was being set may be committed a moment after the first correction.
CORRECTIONS = 2


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a batch. Conflicting rows were in the database already."""

    uploaded: int = 0
    conflicting: int = 0
    rejected: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.uploaded + other.uploaded,
            self.conflicting + other.conflicting,
            self.rejected + other.rejected,
        )


def _is_about_the_row(error: Exception) -> bool:
    """Tell whether an error lies in a row's values, not in the connection, the schema or the rights."""
    if isinstance(error, psycopg2.DataError | psycopg2.IntegrityError):
        return True
    if isinstance(error, psycopg2.ProgrammingError):
        # Without a code from the server, psycopg2 itself could not write the value.
        return error.pgcode is None
    return isinstance(error, ValueError | TypeError | OverflowError | KeyError)


def _values(row: Row, points: Sequence[str]) -> tuple[Any, ...]:
    sample = row.sample
    at = EPOCH + timedelta(microseconds=sample.time_us)
    keys = (at, sample.device_id, sample.boot_id, sample.seq, sample.time_quality)
    return keys + tuple(sample.payload.get(point) for point in points)


def _insert(connection: Connection, kind: str, rows: Sequence[Row]) -> dict[int, str | None]:
    """Insert rows of one kind.

    Return, for the id of each row whose place was taken already, how that row differs (None: it is equal).
    """
    table_name, points = TABLES[kind]
    table = sql.Identifier("flux", table_name)
    statement = sql.SQL(
        "INSERT INTO {} ({}) VALUES %s ON CONFLICT (device_id, time) DO NOTHING "
        "RETURNING device_id::text, boot_id::text, seq"
    ).format(table, sql.SQL(", ").join(map(sql.Identifier, KEY_COLUMNS + points)))
    existing = sql.SQL("SELECT boot_id::text, seq FROM {} WHERE device_id = %s AND time = %s").format(table)
    present: dict[int, str | None] = {}
    with connection.cursor() as cursor:
        values = [_values(row, points) for row in rows]
        inserted = set(execute_values(cursor, statement, values, page_size=len(values), fetch=True))
        for row, value in zip(rows, values, strict=True):
            sample = row.sample
            if (sample.device_id, sample.boot_id, sample.seq) in inserted:
                continue
            cursor.execute(existing, (sample.device_id, value[0]))
            found = cursor.fetchone()
            same = found == (sample.boot_id, sample.seq)
            present[row.id] = (
                None if same else f"another row of the device has this time (boot, seq: {found})"
            )
    return present


def upload_batch(connection: Connection, store: Store, rows: Sequence[Row]) -> Tally:
    """Commit rows to the database and take them out of the store; a row it refuses goes to `rejected`.

    Raises psycopg2.Error when the database as a whole fails (nothing is lost: the rows stay) and StoreError.
    """
    if not rows:
        return Tally()
    present: dict[int, str | None] = {}
    try:
        for kind in sorted({row.sample.kind for row in rows}):
            present |= _insert(connection, kind, [row for row in rows if row.sample.kind == kind])
        connection.commit()
    except Exception as error:
        if not _is_about_the_row(error):
            raise
        connection.rollback()
        if len(rows) == 1:
            store.reject(rows[0], str(error).strip())
            _say_rejected(rows[0], str(error).strip())
            return Tally(rejected=1)
        # Halving finds one bad row among n in about 2 log2(n) transactions, and the others go through.
        middle = len(rows) // 2
        return upload_batch(connection, store, rows[:middle]) + upload_batch(connection, store, rows[middle:])
    clashing = [row for row in rows if present.get(row.id) is not None]
    for row in clashing:
        reason = str(present[row.id])
        store.reject(row, reason)
        _say_rejected(row, reason)
    store.uploaded([row for row in rows if row not in clashing])
    return Tally(len(rows) - len(present), len(present) - len(clashing), len(clashing))


def upload_gaps(connection: Connection, store: Store) -> int:
    """Tell the database which samples will never come; return the number of gaps told.

    Raises psycopg2.Error and StoreError; what was not committed is told again.
    """
    gaps = store.gaps(GAPS_AT_ONCE)
    if not gaps:
        return 0
    values = [
        (
            gap.device_id,
            gap.boot_id,
            gap.first_seq,
            gap.last_seq,
            EPOCH + timedelta(microseconds=gap.first_us),
            EPOCH + timedelta(microseconds=gap.last_us),
            gap.rows,
            gap.reason,
        )
        for gap in gaps
    ]
    with connection.cursor() as cursor:
        execute_values(cursor, TELL_GAPS, values)
    connection.commit()
    store.gaps_uploaded(gaps)
    return len(gaps)


def _say_rejected(row: Row, reason: str) -> None:
    sample = row.sample
    what = f"{sample.device_id} boot {sample.boot_id} seq {sample.seq}"
    LOG.error("row of %s was refused and set aside: %s", what, reason.partition("\n")[0])


class Uploader(threading.Thread):
    """The thread that keeps the store empty; it calls ``settings`` at each connect, for a new password."""

    def __init__(
        self,
        open_store: Callable[[], Store],
        settings: Callable[[], Mapping[str, Any]],
        metrics: Metrics,
        *,
        batch_size: int,
        interval_s: float,
        retention_s: float,
        clock: Clock,
        max_backoff_s: float = 15.0,
    ) -> None:
        """Rows stay for ``retention_s`` after their upload."""
        super().__init__(name="upload", daemon=True)
        self.batch_size = batch_size
        self.interval_s = interval_s
        self.retention_s = retention_s
        self.max_backoff_s = max_backoff_s
        self._open_store = open_store
        self._settings = settings
        self._metrics = metrics
        self._stop_asked = threading.Event()
        self._reconnect_asked = threading.Event()
        self._wake = threading.Event()
        self._store: Store | None = None
        self._connection: Connection | None = None
        self._complaint = ""
        self._clock = clock
        self._corrections = CORRECTIONS
        self._newest = 0
        self._can_tell_gaps = False

    def reconnect(self) -> None:
        """Connect with fresh settings and try at once, whatever the delay after a failure is."""
        self._reconnect_asked.set()
        self._wake.set()

    def stop(self) -> None:
        """Ask the thread to end; what it has not committed stays in the store."""
        self._stop_asked.set()
        self._wake.set()

    def run(self) -> None:
        """Upload until stopped; any failure is told once and tried again after a jittered, growing delay."""
        failures = 0
        while not self._stop_asked.is_set():
            try:
                self._drain()
                failures = 0
                if self._complaint:
                    LOG.info("uploading again")
                    self._complaint = ""
                delay_s = self.interval_s
            except (psycopg2.Error, StoreError, ConfigError) as error:
                delay_s = self._fail(f"{error}".strip(), failures)
                failures += 1
            except Exception as error:
                # A defect here must neither end the thread nor stay unseen.
                LOG.exception("unexpected failure of the upload")
                delay_s = self._fail(repr(error), failures)
                failures += 1
            self._wake.wait(delay_s)
            self._wake.clear()
        self._disconnect()

    def _fail(self, message: str, failures: int) -> float:
        self._disconnect()
        if message != self._complaint:
            LOG.warning("upload failed, the rows stay in the store: %s", message)
            self._complaint = message
        bound_s = min(self.max_backoff_s, 0.5 * float(2 ** min(failures, 10)))
        # Jitter, so that a fleet does not come back to a restarted database in one moment.
        return bound_s * random.uniform(0.5, 1.0)  # noqa: S311 (not for security)

    def _drain(self) -> None:
        if self._store is None:
            self._store = self._open_store()
        store, stamp = self._store, self._clock.stamp()
        self._correct(store, stamp)
        hold_back = HoldBack.of(stamp)
        more = True
        while more and not self._stop_asked.is_set():
            self._measure(store)
            live = store.newest(self.batch_size, self._newest, hold_back)
            self._send(store, live)
            self._newest = max([self._newest, *(row.id for row in live)])
            backlog = store.oldest(self.batch_size, hold_back)
            self._send(store, backlog)
            more = len(backlog) == self.batch_size
        if store.gaps(1) and self._connected() and self._can_tell_gaps:
            upload_gaps(self._connected(), store)
        while store.forget_uploaded(self.retention_s) and not self._stop_asked.is_set():
            continue
        self._measure(store)

    def _correct(self, store: Store, stamp: Stamp) -> None:
        """Give rows from before the clock was right their time, each time that it becomes right."""
        if stamp.quality != SYNCHRONISED:
            self._corrections = CORRECTIONS
        elif self._corrections:
            self._corrections -= 1
            corrected = store.correct(stamp.wall_us - stamp.monotonic_us, stamp.host_boot)
            if corrected:
                LOG.info("the clock is right now: the time of %d rows was corrected", corrected)
                self._metrics.corrected(corrected)

    def _measure(self, store: Store) -> None:
        size = store.size()
        self._metrics.buffer(size.rows, size.bytes)
        self._metrics.known_gaps(len(store.gaps(GAPS_AT_ONCE)))

    def _send(self, store: Store, rows: Sequence[Row]) -> None:
        if not rows:
            return
        tally = upload_batch(self._connected(), store, rows)
        self._metrics.upload(
            uploaded=tally.uploaded,
            conflicting=tally.conflicting,
            rejected=tally.rejected,
            at_s=time.time(),
        )

    def _connected(self) -> Connection:
        if self._reconnect_asked.is_set():
            self._reconnect_asked.clear()
            self._disconnect()
        if self._connection is None:
            connection = connect(self._settings(), application_name=f"bess_controller {self._metrics.site}")
            self._connection = connection
            with connection.cursor() as cursor:
                cursor.execute("SET statement_timeout = %s", (STATEMENT_TIMEOUT_MS,))
                cursor.execute(CAN_TELL_GAPS)
                self._can_tell_gaps = cursor.fetchone() == (True,)
            connection.commit()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
