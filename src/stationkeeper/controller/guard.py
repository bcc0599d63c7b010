"""Looks at what may hold the station at any moment: the emergency-stop latch and the orders."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from stationkeeper.controller.latch import LatchState, read_latch
from stationkeeper.controller.modes import Seen
from stationkeeper.controller.orders import KINDS, read_order


def latch_reason(state: LatchState) -> str | None:
    """Return why the station is latched, None when it certainly is not."""
    if not state.latched:
        return None
    if state.record is not None:
        return f"{state.record.reason} ({state.record.who} {state.record.when})".replace(" ( )", "")
    return "; ".join(state.problems) or "latched"


class Guard:
    """Reads from a thread: a disk that hangs must neither stop the loop nor pass for "not latched"."""

    def __init__(
        self, latch_directory: Path, fallback_directory: Path, orders: Path, *, wait_s: float = 0.5
    ) -> None:
        self._read: Callable[[], Seen] = lambda: Seen(
            latch_reason(read_latch(latch_directory, fallback_directory)),
            {kind: read_order(kind, orders) for kind in KINDS},
        )
        self._wait_s = wait_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guard")
        self._reading: Future[Seen] | None = None
        self._last = Seen(None)

    async def look(self) -> Seen:
        """Return what is there; latched when the disk does not answer in time."""
        if self._reading is None:
            self._reading = self._thread.submit(self._read)
        reading = self._reading
        done, _ = await asyncio.wait([asyncio.wrap_future(reading)], timeout=self._wait_s)
        if not done:
            # The same reading is waited for again next time: at most one thread hangs on the disk.
            problem = "the disk does not answer, so nobody knows whether there is a latch"
            return Seen(problem, self._last.orders, unknown=True)
        self._reading = None
        self._last = reading.result()
        return self._last

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False)
