"""The clocks: whether the wall clock can be trusted, and stamps that can be corrected once it can."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

SYNCHRONISED, UNSYNCHRONISED, CORRECTED = "synchronised", "unsynchronised", "corrected"
TIMESYNCD_FLAG = Path("/run/systemd/timesync/synchronized")
CONTAINER_FLAG = Path("/run/systemd/container")
HOST_BOOT_VARIABLE = "STATIONKEEPER_HOST_BOOT"
HOST_BOOT = Path("/proc/sys/kernel/random/boot_id")
# Larger than any libc's struct timex; all zero asks the kernel without changing anything.
_TIMEX_BYTES = 512
_TIME_ERROR = 5


def kernel_says_synchronised() -> bool:
    """Ask adjtimex(2); False when the clock is not synchronised or a sandbox does not let us ask."""
    try:
        import ctypes

        state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (ImportError, OSError, AttributeError, MemoryError):
        return False
    return 0 <= state < _TIME_ERROR


def time_quality() -> str:
    """Return ``synchronised`` or ``unsynchronised``.

    A container has no clock of its own: its host's clock is taken as given.
    """
    trusted = TIMESYNCD_FLAG.exists() or CONTAINER_FLAG.exists() or kernel_says_synchronised()
    return SYNCHRONISED if trusted else UNSYNCHRONISED


@dataclass(frozen=True, slots=True)
class Stamp:
    """One instant: UTC in microseconds since 1970, and since the host's start in microseconds.

    With the difference of the two, taken later by a clock that can be trusted, a wrong ``wall_us`` of the
    same ``host_boot`` can be corrected.
    """

    wall_us: int
    quality: str
    monotonic_us: int
    host_boot: str


class Clock:
    """The host's clocks."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """The unit says which start of the host this is, because its sandbox hides the kernel's file."""
        self.host_boot = environment.get(HOST_BOOT_VARIABLE, "")
        try:
            self.host_boot = self.host_boot or HOST_BOOT.read_text(encoding="ascii").strip()
        except OSError:
            # Then no stamp of this run is ever taken for one of another.
            self.host_boot = f"unknown {time.time_ns()}"

    def stamp(self) -> Stamp:
        """Return the present instant."""
        return Stamp(time.time_ns() // 1000, time_quality(), time.monotonic_ns() // 1000, self.host_boot)

    @staticmethod
    def now() -> datetime:
        """Return the wall clock in UTC."""
        return datetime.now(UTC)
