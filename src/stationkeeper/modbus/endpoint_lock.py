"""One master at a time on a gateway: an advisory lock for each endpoint, held through flock.

The kernel frees it when its holder ends, however that happens. It binds the processes of one host that
use the same directory: the host that opens the socket is the one that locks.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from stationkeeper.modbus.errors import EndpointBusyError, RequestError
from stationkeeper.runbooks.state import state_directory

_POLL_S = 0.05


def default_directory() -> Path:
    """Where a control node keeps these locks: ``$STATIONKEEPER_STATE/locks/endpoints``."""
    return state_directory() / "locks" / "endpoints"


@asynccontextmanager
async def endpoint_lock(
    directory: Path, host: str, port: int, *, timeout_s: float, owner: str
) -> AsyncIterator[None]:
    """Hold the lock of one endpoint; `host` may be the path of a serial device, `port` is then unused.

    Waits up to `timeout_s` for another holder, in this process or another. Raises `EndpointBusyError`
    naming the holder (owner, pid, since) when it does not let go, and `RequestError` when the directory
    cannot be written. An endpoint is locked as it is spelled: one name for each in the inventory.
    """
    path = directory / _file_name(host, port)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise RequestError(f"cannot lock the endpoint: {error.strerror}: {path}; make it writable") from None
    try:
        await _acquire(descriptor, f"{host}:{port}", timeout_s)
        _write(descriptor, {"owner": owner, "pid": os.getpid(), "since": _now()})
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
            # Unlocked by name: a child forked meanwhile shares the lock through its copy of the file.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


async def _acquire(descriptor: int, endpoint: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise EndpointBusyError(
                    f"{endpoint} is in use by {_holder(descriptor)}; waited {timeout_s:g} s"
                ) from None
            await asyncio.sleep(_POLL_S)
        else:
            return


def _file_name(host: str, port: int) -> str:
    if host.startswith("/"):
        # A line has several names: /dev/serial/by-id/... is a link to /dev/ttyUSB0.
        return quote(os.path.realpath(host), safe="") + ".lock"
    return f"{quote(host.lower(), safe='')}_{port}.lock"


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"{holder['owner']} (pid {holder['pid']}, since {holder['since']})"
    except (ValueError, KeyError, TypeError):
        # It holds the lock and has not yet written its name, or is just letting go.
        return "a holder that has not said its name"


def _write(descriptor: int, record: dict[str, object]) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(record).encode(), 0)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
