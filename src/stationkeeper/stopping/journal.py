"""The audit records of a stop without Ansible: written beside the stop, never before it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stationkeeper.runbooks.process import describe_process
from stationkeeper.stopping.station_latch import Order

# The records of a stop are worth a wait, once everything else is done.
_JOIN_S = 15.0


class Journal:
    """Records START and END in the audit chain; what the chain refuses goes to its spool."""

    def __init__(self, state: Path, warn: Callable[[str], None]) -> None:
        process = describe_process(os.getpid())
        self.owner = f"{process['user']}@{process['node']}"
        self._process = process
        self._state = state
        self._warn = warn
        self._recorder: Any = None
        self._thread: threading.Thread | None = None

    def start(self, order: Order, stations: Sequence[str]) -> None:
        """Record START in a thread: a locked chain must not hold up the first zero write."""
        data = {
            "playbook": "stationkeeper stop",
            "reason": order.reason,
            "owner": self._process,
            "targets": list(stations),
        }

        def work() -> None:
            try:
                from stationkeeper.audit.paths import AuditPaths
                from stationkeeper.audit.recorder import Recorder

                self._recorder = Recorder(order.run_id, AuditPaths(self._state / "audit"), self._warn)
                self._recorder.start(data)
            except Exception as error:
                self._warn(f"audit: this stop is not recorded: {type(error).__name__}: {error}")

        self._thread = threading.Thread(target=work, name="audit", daemon=True)
        self._thread.start()

    def end(self, code: int, outcomes: Sequence[Mapping[str, Any]]) -> None:
        """Record END with what became of every station, and copy the chain to the database if it answers."""
        if self._thread is None:
            return
        self._thread.join(_JOIN_S)
        if self._thread.is_alive() or self._recorder is None:
            self._warn("audit: this stop is not recorded in the chain; its report is the record")
            return
        try:
            self._recorder.end(
                {
                    "outcome": "ok" if code == 0 else "failed",
                    "stations": {
                        str(outcome["station"]): f"{outcome['status']}: {outcome['message']}"
                        for outcome in outcomes
                    },
                }
            )
            self._recorder.ship()
        except Exception as error:
            self._warn(f"audit: this stop is not recorded: {type(error).__name__}: {error}")
