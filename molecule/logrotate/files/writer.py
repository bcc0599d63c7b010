"""Stand-in for the controller: writes numbered lines and opens its log anew on SIGHUP."""

import signal
import time
from pathlib import Path

LOG = Path("/var/log/bess_controller/controller.log")
log = LOG.open("a")


def reopen(_signal: int, _frame: object) -> None:
    global log  # noqa: PLW0603 - a signal handler has no other way to hand the file over
    log.close()
    log = LOG.open("a")


signal.signal(signal.SIGHUP, reopen)
number = 0
while True:
    number += 1
    log.write(f"{number}\n")
    log.flush()
    time.sleep(0.05)
