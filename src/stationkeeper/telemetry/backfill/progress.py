"""Tell how far a back-fill is: one line that grows on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol, TextIO

_WIDTH = 30
_EVERY_S = 10.0


class Progress(Protocol):
    """What a recovery tells while it runs."""

    def expect(self, rows: int) -> None:
        """More rows are to come: an estimate."""

    def done(self, rows: int, text: str) -> None:
        """Rows are stored and proven (or known to be nowhere); ``text`` says which."""

    def end(self) -> None:
        """Nothing more comes."""


class Silent:
    """Tells nothing."""

    def expect(self, rows: int) -> None:
        """Ignore it."""

    def done(self, rows: int, text: str) -> None:
        """Ignore it."""

    def end(self) -> None:
        """Ignore it."""


class Lines:
    """Writes a bar to a terminal, else a plain line at most every ten seconds. Threads may share one."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._clock = clock
        self._told_at = clock()
        self._expected = 0
        self._rows = 0
        self._text = ""
        self._lock = threading.Lock()

    def expect(self, rows: int) -> None:
        """Add to what is to come."""
        with self._lock:
            self._expected += rows

    def done(self, rows: int, text: str) -> None:
        """Add to what is done, and tell it when it is time."""
        with self._lock:
            self._rows += rows
            self._text = text
            if self._terminal:
                self._stream.write(f"\r\x1b[K{self._bar()} {self._text}")
                self._stream.flush()
            elif self._clock() - self._told_at >= _EVERY_S:
                self._told_at = self._clock()
                self._stream.write(f"{self._rows} of about {self._expected} rows, {self._text}\n")
                self._stream.flush()

    def end(self) -> None:
        """Finish the line."""
        if self._terminal and self._text:
            self._stream.write("\n")
            self._stream.flush()

    def _bar(self) -> str:
        share = min(1.0, self._rows / self._expected) if self._expected else 0.0
        full = int(share * _WIDTH)
        return f"[{'#' * full}{'.' * (_WIDTH - full)}] {share:4.0%} {self._rows} rows"
