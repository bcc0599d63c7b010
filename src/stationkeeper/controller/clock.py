"""Tells whether the wall clock can be trusted, for the ``time_quality`` of a sample."""

from __future__ import annotations

from pathlib import Path

SYNCHRONISED, UNSYNCHRONISED = "synchronised", "unsynchronised"
TIMESYNCD_FLAG = Path("/run/systemd/timesync/synchronized")
CONTAINER_FLAG = Path("/run/systemd/container")
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


def time_quality(timesyncd_flag: Path = TIMESYNCD_FLAG, container_flag: Path = CONTAINER_FLAG) -> str:
    """Return ``synchronised`` or ``unsynchronised``.

    A container has no clock of its own: its host's clock is taken as given.
    """
    trusted = timesyncd_flag.exists() or container_flag.exists() or kernel_says_synchronised()
    return SYNCHRONISED if trusted else UNSYNCHRONISED
