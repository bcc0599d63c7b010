"""Time for the write engine, so that tests can give their own."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime


class Clock:
    """The machine's clocks: monotonic for durations, UTC for stamps."""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def utc(self) -> datetime:
        """Return the time of day in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
