"""Start the apt cache with the first lab, tell it about others, and let it end with the last."""

import os
import signal
import socket
import time

from labkit import machine
from labkit.clone import PROXY_PORT
from labkit.errors import LabError
from labkit.paths import CACHE, RUN
from labkit.record import all_records, living_process, lock_file, note_process

NOTE = RUN / "proxy.json"
START_WAIT_S = 10.0


def ensure(gateway: str) -> None:
    """Have the cache listen on the bridges of all labs that are up; wait until it does on this one."""
    with lock_file(RUN / "proxy.lock", "the apt cache"):
        pid = living_process(NOTE)
        if pid is not None:
            os.kill(pid, signal.SIGHUP)
        else:
            CACHE.mkdir(parents=True, exist_ok=True)
            note_process(NOTE, machine.spawn_detached(CACHE / "proxy.log", "labkit.proxy"))
        deadline = time.monotonic() + START_WAIT_S
        while not _answers(gateway):
            if time.monotonic() > deadline:
                raise LabError(f"the apt cache does not listen on {gateway}; see {CACHE / 'proxy.log'}")
            time.sleep(0.05)


def _answers(gateway: str) -> bool:
    try:
        socket.create_connection((gateway, PROXY_PORT), timeout=1).close()
    except OSError:
        return False
    return True


def update() -> None:
    """Tell the cache that a lab went down; it ends when that was the last."""
    with lock_file(RUN / "proxy.lock", "the apt cache"):
        pid = living_process(NOTE)
        if pid is not None:
            os.kill(pid, signal.SIGHUP if all_records() else signal.SIGTERM)
