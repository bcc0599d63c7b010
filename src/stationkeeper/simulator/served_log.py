"""The log of everything that was served, one JSON object per line: what telemetry is compared with."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Some hours of two devices: a disk that stays full for longer stops the simulator from answering.
_MAX_PENDING_BYTES = 16 * 1024 * 1024


class ServedLog:
    """Appends a line per request, written through before the answer leaves.

    So no client ever holds an answer that is not in the log, whatever is killed. While the disk is full,
    lines wait in memory and answers go on, as a real device does not care about the station's disk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending = b""
        self._descriptor = self._open()

    def append(self, entry: dict[str, Any]) -> None:
        """Write one line; `at` (UTC, microseconds) is put first. Raises `OSError` when too much waits."""
        stamped = {"at": datetime.now(UTC).isoformat(timespec="microseconds"), **entry}
        self._pending += json.dumps(stamped, separators=(",", ":")).encode() + b"\n"
        try:
            written = os.write(self._descriptor, self._pending)
        except OSError:
            if len(self._pending) > _MAX_PENDING_BYTES:
                raise
            return
        self._pending = self._pending[written:]

    def reopen(self) -> None:
        """Open the path again, after logrotate has moved the file away."""
        os.close(self._descriptor)
        self._descriptor = self._open()

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
