"""The pending ledger: hosts that a runbook could not reach, kept until they are done or expire.

Standard library only: Ansible ships this file with the module that uses it. One JSON file for each
runbook, changed under flock and replaced atomically. An expired entry never runs: work decided three
days ago may be wrong today.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ..files import write_atomically


class LedgerError(RuntimeError):
    """The ledger cannot be read; the text names the file and says how to go on."""


@dataclass(frozen=True)
class Entry:
    """One host that still waits for a runbook. Times are RFC 3339 with offset."""

    host: str
    why: str
    reason: str
    run_id: str
    since: str
    expires_at: str
    ticket: str = ""
    inputs: dict[str, Any] | None = None

    def expired(self, now: datetime) -> bool:
        """Whether the entry must not be acted on any more."""
        return datetime.fromisoformat(self.expires_at) <= now


class Ledger:
    """The ledger of one runbook in `directory`."""

    def __init__(self, directory: Path, runbook: str) -> None:
        self.path = directory / f"{runbook}.json"
        self.runbook = runbook

    def entries(self) -> dict[str, Entry]:
        """All entries by host, expired ones too; empty when there is no ledger."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        try:
            document = json.loads(text)
            return {host: Entry(host=host, **fields) for host, fields in document["entries"].items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LedgerError(
                f"The pending ledger {self.path} cannot be read ({error}). "
                "Look at it, then move it away; the next run writes a new one."
            ) from error

    def due(self, now: datetime) -> dict[str, Entry]:
        """Entries that have not expired."""
        return {host: entry for host, entry in self.entries().items() if not entry.expired(now)}

    def update(
        self, *, add: list[Entry], remove: list[str], now: datetime, dry_run: bool = False
    ) -> tuple[dict[str, Entry], dict[str, Entry]]:
        """Add or renew entries, remove hosts, forget expired entries; return (before, after).

        A renewed entry keeps its `since`. With `dry_run` nothing is written, not even a lock file.
        """
        if dry_run:
            before = self.entries()
            return before, _changed(before, add, remove, now)
        with self._locked():
            before = self.entries()
            after = _changed(before, add, remove, now)
            if after != before:
                self._write(after)
        return before, after

    def _write(self, entries: dict[str, Entry]) -> None:
        if not entries:
            self.path.unlink(missing_ok=True)
            return
        fields = {host: asdict(entry) for host, entry in sorted(entries.items())}
        for values in fields.values():
            del values["host"]
        document = {"runbook": self.runbook, "entries": fields}
        write_atomically(self.path, json.dumps(document, indent=2) + "\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.path.parent / f".{self.runbook}.lock").open("w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _changed(
    before: dict[str, Entry], add: list[Entry], remove: list[str], now: datetime
) -> dict[str, Entry]:
    after = {host: entry for host, entry in before.items() if host not in remove and not entry.expired(now)}
    for entry in add:
        known = after.get(entry.host)
        after[entry.host] = entry if known is None else Entry(**{**asdict(entry), "since": known.since})
    return after


def all_ledgers(directory: Path) -> list[Ledger]:
    """Every runbook's ledger in `directory`, by name."""
    return [Ledger(directory, path.stem) for path in sorted(directory.glob("[!.]*.json"))]
