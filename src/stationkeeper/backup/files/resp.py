"""A few commands to Redis with the standard library only, on hosts that have no client library.

Values are bytes: what DUMP returns is no text.
"""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from .settings import BackupError, RedisAddress


class Redis:
    """One connection. Every method raises BackupError when Redis is away or refuses."""

    def __init__(self, address: RedisAddress, unix_socket: Path | None = None, timeout_s: float = 30) -> None:
        """Connect and log in; by a Unix socket, if one is given."""
        self._where = str(unix_socket) if unix_socket else f"{address.host}:{address.port}"
        try:
            if unix_socket:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._socket.settimeout(timeout_s)
                self._socket.connect(str(unix_socket))
            else:
                self._socket = socket.create_connection((address.host, address.port), timeout=timeout_s)
        except OSError as error:
            message = f"Redis at {self._where} does not answer: {error}"
            raise BackupError(message) from error
        self._stream = self._socket.makefile("rb")
        self("AUTH", address.user, address.password)

    def __enter__(self) -> Redis:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._socket.close()

    def __call__(self, *words: str | bytes | int) -> Any:
        """Send one command and return its answer."""
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        request = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        try:
            self._socket.sendall(request)
            return self._answer(str(words[0]))
        except (OSError, ValueError) as error:
            message = f"Redis at {self._where} was lost: {error}"
            raise BackupError(message) from error

    def info(self, section: str) -> dict[str, str]:
        """Return a section of INFO."""
        lines = self("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def keys(self) -> int:
        """Return how many keys the database has."""
        return int(self("DBSIZE"))

    def sample(self, limit: int) -> list[bytes]:
        """Return keys by chance, each once: at most so many."""
        asked = [self("RANDOMKEY") for _ in range(limit)]
        return sorted({key for key in asked if key is not None})

    def dumps(self, keys: list[bytes]) -> dict[bytes, bytes | None]:
        """Return the values of keys in Redis' own form; None where there is no such key."""
        return {key: self("DUMP", key) for key in keys}

    def _answer(self, command: str) -> Any:
        line = self._stream.readline()
        if not line.endswith(b"\r\n"):
            message = "the connection was closed"
            raise OSError(message)
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._stream.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self._answer(command) for _ in range(int(rest))]
        message = f"Redis at {self._where} refused {command}: {rest.decode(errors='replace')}"
        raise BackupError(message)
