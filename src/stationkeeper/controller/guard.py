"""Looks at what may stop the station at any moment: the emergency-stop latch and the safe-mode file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stationkeeper.controller.latch import LatchState, read_latch


@dataclass(frozen=True, slots=True)
class Holds:
    """Reasons to stand at 0 kW; None where there is none."""

    latch: str | None
    safe_mode: str | None


def read_safe_mode(path: Path) -> str | None:
    """Return why safe mode is on, None when its file is certainly absent. Never raises."""
    try:
        path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path}: {error.strerror}"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return "asked for without a readable reason"


def latch_reason(state: LatchState) -> str | None:
    """Return why the station is latched, None when it certainly is not."""
    if not state.latched:
        return None
    if state.record is not None:
        return f"{state.record.reason} ({state.record.who} {state.record.when})".replace(" ( )", "")
    return "; ".join(state.problems) or "latched"


class Guard:
    """Reads both from a thread: a disk that hangs must neither stop the loop nor pass for "not latched"."""

    def __init__(
        self, latch_directory: Path, fallback_directory: Path, safe_mode: Path, *, wait_s: float = 0.5
    ) -> None:
        self._read: Callable[[], Holds] = lambda: Holds(
            latch_reason(read_latch(latch_directory, fallback_directory)), read_safe_mode(safe_mode)
        )
        self._wait_s = wait_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guard")
        self._reading: Future[Holds] | None = None

    async def look(self) -> Holds:
        """Return the present holds; latched when the disk does not answer in time."""
        if self._reading is None:
            self._reading = self._thread.submit(self._read)
        reading = self._reading
        done, _ = await asyncio.wait([asyncio.wrap_future(reading)], timeout=self._wait_s)
        if not done:
            # The same reading is waited for again next time: at most one thread hangs on the disk.
            return Holds("the disk does not answer, so nobody knows whether there is a latch", None)
        self._reading = None
        return reading.result()

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False)
