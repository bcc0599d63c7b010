"""Start the apt cache with the first lab, tell it about others, and let it end with the last."""

import os
import signal

from labkit import machine
from labkit.paths import CACHE, RUN
from labkit.record import all_records, living_process, lock_file, note_process

NOTE = RUN / "proxy.json"


def ensure() -> None:
    """Have the cache listen on the bridges of all labs that are up."""
    with lock_file(RUN / "proxy.lock", "the apt cache"):
        pid = living_process(NOTE)
        if pid is not None:
            os.kill(pid, signal.SIGHUP)
            return
        CACHE.mkdir(parents=True, exist_ok=True)
        note_process(NOTE, machine.spawn_detached(CACHE / "proxy.log", "labkit.proxy"))


def update() -> None:
    """Tell the cache that a lab went down; it ends when that was the last."""
    with lock_file(RUN / "proxy.lock", "the apt cache"):
        pid = living_process(NOTE)
        if pid is not None:
            os.kill(pid, signal.SIGHUP if all_records() else signal.SIGTERM)
