"""Record one run, whatever happens to the disk or the database meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stationkeeper.audit import ship, spool
from stationkeeper.audit.chain import Chain, ChainError, Session
from stationkeeper.audit.keys import KeyFileError
from stationkeeper.audit.paths import AuditPaths
from stationkeeper.database.settings_file import SettingsFileError, read_settings

# More than any real run has; it bounds memory while the disk is full.
_MAX_PENDING = 10_000
# After the first failure a play must not wait for a lock at every task again.
_SHORT_LOCK_TIMEOUT_S = 0.1
_WRITE_ERRORS = (OSError, ChainError, KeyFileError)


class Recorder:
    """Writes the records of one run; what cannot be written waits, and in the end goes to the spool."""

    def __init__(self, run_id: str, paths: AuditPaths, warn: Callable[[str], None]) -> None:
        self.run_id = run_id
        self.aborted: list[str] = []
        self._chain = Chain(paths)
        self._warn = warn
        self._pending: list[dict[str, Any]] = []
        self._dropped = 0
        self._prepared = False
        self._broken = False

    def start(self, data: Mapping[str, Any]) -> bool:
        """Record START, after ABORTED for runs that died; return whether it is on the disk."""
        return self.note("START", data)

    def note(self, event: str, data: Mapping[str, Any]) -> bool:
        """Record one event and all that waited before it; return whether they are on the disk."""
        if len(self._pending) >= _MAX_PENDING:
            self._dropped += 1
        else:
            self._pending.append({"event": event, "at": datetime.now(UTC), "data": dict(data)})
        return self._flush()

    def end(self, data: Mapping[str, Any]) -> bool:
        """Record END; what the chain still refuses goes to the spool for the next run to bring in."""
        closing = {**data, "records_dropped": self._dropped} if self._dropped else data
        if len(self._pending) >= _MAX_PENDING:
            self._pending.pop()
        if self.note("END", closing):
            return True
        try:
            path = spool.write(self._chain.paths, self.run_id, self._pending)
        except (OSError, spool.SpoolError) as error:
            self._warn(
                f"audit: {len(self._pending)} records of this run are LOST, they cannot be spooled: {error}"
            )
        else:
            self._warn(
                f"audit: the records of this run wait in {path}; the next run puts them into the chain"
            )
            self._pending.clear()
        return False

    def ship(self, limit_s: float = 3.0) -> None:
        """Copy the chain to the database within ``limit_s`` seconds; otherwise it waits for the next run."""
        path = ship.settings_file(self._chain.paths)
        if path is None:
            return
        failures: list[str] = []

        def work(path: Path = path) -> None:
            try:
                ship.ship(self._chain.paths, read_settings(path), timeout_s=2)
            except (ship.ShipError, SettingsFileError) as error:
                failures.append(str(error))
            except Exception as error:
                failures.append(type(error).__name__)

        # A daemon thread, since libpq cannot be interrupted while it resolves names or connects.
        thread = threading.Thread(target=work, name="audit-ship", daemon=True)
        thread.start()
        thread.join(limit_s)
        if thread.is_alive():
            failures.append(f"no answer within {limit_s:g} s")
        if failures:
            self._warn(f"audit: records stay on this control node until the next run: {failures[0]}")

    def _take_spooled(self, session: Session) -> list[Path]:
        try:
            return spool.take(self._chain.paths, session)
        except spool.SpoolError as error:
            # Whoever prepared that folder must not keep this run from being recorded.
            self._warn(f"audit: the spool is not looked at: {error}")
            return []

    def _flush(self) -> bool:
        taken: list[Path] = []
        aborted: list[str] = []
        try:
            with self._chain.session() as session:
                if not self._prepared:
                    aborted = self._chain.abort_gone_runs(session)
                    taken = self._take_spooled(session)
                for entry in self._pending:
                    session.add(entry["event"], self.run_id, entry["data"], at=entry["at"])
        except _WRITE_ERRORS as error:
            if not self._broken:
                self._warn(f"audit: this run cannot be recorded: {error}")
            self._broken = True
            self._chain.lock_timeout_s = _SHORT_LOCK_TIMEOUT_S
            return False
        self._prepared, self._broken = True, False
        self.aborted += aborted
        self._pending.clear()
        for path in taken:
            path.unlink(missing_ok=True)
        return True
