"""Brings samples to the store without ever making control wait for a slow or full disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from stationkeeper.controller.metrics import Metrics
from stationkeeper.controller.store import Sample, Store, StoreError

LOG = logging.getLogger("stationkeeper.controller.recorder")
# About a day of two devices at a poll a minute, while the disk takes nothing.
MEMORY_SAMPLES = 3000
LOST_REMEMBERED = 100_000


class Recorder:
    """Stores samples from a thread of its own; what the disk refuses waits in memory and is tried again."""

    def __init__(self, open_store: Callable[[], Store], metrics: Metrics, *, wait_s: float = 1.0) -> None:
        """``wait_s`` bounds how long `save` holds up its caller."""
        self._open_store = open_store
        self._metrics = metrics
        self._wait_s = wait_s
        self._store: Store | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._pending: list[Sample] = []
        self._lost: list[Sample] = []
        self._flushing: asyncio.Task[None] | None = None
        self._complaint = ""

    async def start(self) -> None:
        """Open the store; when that fails, it is said, and tried again with each sample."""
        loop = asyncio.get_running_loop()
        opening = asyncio.wrap_future(self._thread.submit(self._opened), loop=loop)
        done, _ = await asyncio.wait([opening], timeout=5 * self._wait_s)
        if done and isinstance(opening.exception(), StoreError):
            self._complain(str(opening.exception()))

    async def save(self, sample: Sample) -> None:
        """Store a sample; returns once it is on the disk, at the latest after ``wait_s``."""
        if len(self._pending) >= MEMORY_SAMPLES:
            LOG.error("lost the sample seq %d of %s, which no disk took", sample.seq, sample.device_id)
            self._metrics.lost(1)
            # Without its values a sample is small; which ones are missing is told once the disk is back.
            self._lost.append(replace(sample, payload={}))
            del self._lost[:-LOST_REMEMBERED]
        else:
            self._pending.append(sample)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        await asyncio.wait([self._flushing], timeout=self._wait_s)

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            batch = list(self._pending)
            try:
                dropped = await loop.run_in_executor(self._thread, self._append, batch)
            except StoreError as error:
                self._complain(str(error))
                return
            del self._pending[: len(batch)]
            if dropped:
                self._metrics.dropped(dropped)
                LOG.error("the store is full: the oldest %d rows were given up and recorded", dropped)
            if self._complaint:
                LOG.info("the store takes samples again")
                self._complaint = ""
            self._metrics.buffer_writable(True)

    def _opened(self) -> Store:
        if self._store is None:
            self._store = self._open_store()
            if self._store.set_aside is not None:
                LOG.error("the store was damaged; it is kept as %s, a new one begins", self._store.set_aside)
        return self._store

    def _append(self, batch: list[Sample]) -> int:
        store, lost = self._opened(), list(self._lost)
        dropped = store.append(batch)
        if lost:
            store.record_lost(lost, "not stored")
            del self._lost[: len(lost)]
        return dropped

    def _complain(self, message: str) -> None:
        self._metrics.buffer_writable(False)
        if message != self._complaint:
            LOG.error("samples cannot be stored, control goes on: %s", message)
            self._complaint = message

    async def close(self) -> None:
        """Store what waits, as far as the disk takes it, and close."""
        if self._flushing is not None:
            await asyncio.wait([self._flushing], timeout=self._wait_s)
        if self._pending:
            await asyncio.wait([asyncio.create_task(self._flush())], timeout=self._wait_s)
        if self._pending:
            LOG.error("lost %d samples at the end, which no disk took", len(self._pending))
        if self._store is not None:
            self._thread.submit(self._store.close)
        self._thread.shutdown(wait=False)
