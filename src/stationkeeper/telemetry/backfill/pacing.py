"""How fast a back-fill may go: rows a second, and the replicas' distance behind the primary."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from stationkeeper.telemetry.source import TelemetryError

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)


class Throttle:
    """Waits after each batch until the rows so far fit ``rows_per_s``; without it never waits.

    Several threads may share one.
    """

    def __init__(
        self,
        rows_per_s: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if rows_per_s is not None and rows_per_s <= 0:
            raise TelemetryError(f"{rows_per_s:g} rows a second is no speed; leave the limit out for none")
        self._rate = rows_per_s
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()
        self._lock = threading.Lock()

    def rows_within(self, seconds: float, *, at_most: int) -> int:
        """Return how many rows may be spent in a time, at least one and at most ``at_most``."""
        return at_most if self._rate is None else max(1, min(at_most, int(self._rate * seconds)))

    def spend(self, rows: int) -> None:
        """Account for rows that were copied, and wait as long as they should have taken."""
        if self._rate is None:
            return
        # Time in which nothing was to do is not saved up for a burst later.
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now - 1) + rows / self._rate
            wait_s = self._free_at - now
        if wait_s > 0:
            self._sleep(wait_s)


def replication_lag(cursor: Cursor) -> int:
    """Return how many bytes of WAL the slowest replica has not replayed; 0 without replicas.

    Raises TelemetryError when this user may not see it.
    """
    cursor.execute(
        "SELECT count(*), count(state), max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn))"
        " FROM pg_stat_replication WHERE state IS NULL OR state = 'streaming'"
    )
    row = cursor.fetchone()
    assert row is not None
    replicas, visible, lag = row
    if replicas and not visible:
        raise TelemetryError(
            "this database user may not see how far the replicas are; GRANT pg_read_all_stats to it, or run "
            "without a limit for the lag"
        )
    return int(lag or 0)
