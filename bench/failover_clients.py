"""Clients that insert 200 rows a second together through libpq's list of hosts, and record what is stored."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from itertools import pairwise
from types import TracebackType
from typing import Any

import psycopg2

from stationkeeper.database.connection import connect

CLIENTS = 4
EACH_S = 1 / 50


class Clients:
    """A context. ``acknowledged`` gets the (client, seq) of every row whose commit was confirmed."""

    def __init__(self, settings: Mapping[str, Any], table: str) -> None:
        self.settings = settings
        self.table = table
        self.acknowledged: set[tuple[str, int]] = set()
        self._times: list[float] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._write, daemon=True) for _ in range(CLIENTS)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        self.first_after(time.monotonic())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=30)

    def run_for(self, seconds: float) -> None:
        """Let the clients write for a while."""
        time.sleep(seconds)

    def first_after(self, moment: float) -> float:
        """Wait until clients write; return how long after ``moment`` the longest silence since then ended."""
        now = time.monotonic()
        while time.monotonic() < now + 300:
            with self._lock:
                later = [when for when in self._times if when > moment]
            if later and max(later) > now:
                return self._after_silence(moment, later)
            time.sleep(0.02)
        raise AssertionError("no client could write for 300 s")

    @staticmethod
    def _after_silence(moment: float, later: list[float]) -> float:
        # A row may be acknowledged in the very moment of the fault: what counts is the longest silence's end.
        times = [moment, *sorted(later)]
        gaps = [(after - before, after) for before, after in pairwise(times)]
        return max(gaps)[1] - moment

    def longest_silence(self, since: float) -> float:
        """Return the longest time without any acknowledged row."""
        with self._lock:
            times = sorted(when for when in self._times if when > since)
        return max((after - before for before, after in pairwise(times)), default=0.0)

    def _write(self) -> None:
        name, number = uuid.uuid4().hex, 0
        session = None
        while not self._over.is_set():
            number += 1
            try:
                if session is None:
                    session = connect(self.settings, connect_timeout_s=2, tcp_user_timeout_s=2)
                    session.autocommit = True
                with session.cursor() as cursor:
                    cursor.execute(
                        f"INSERT INTO {self.table} VALUES (%s, %s)",  # noqa: S608 (a constant)
                        (name, number),
                    )
                with self._lock:
                    self.acknowledged.add((name, number))
                    self._times.append(time.monotonic())
                time.sleep(EACH_S)
            except psycopg2.Error:
                # Whether it was stored, nobody knows. It was not acknowledged; its number is not used again.
                if session is not None:
                    session.close()
                session = None
                time.sleep(0.05)
