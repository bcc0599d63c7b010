"""A lock file on the host that it protects. Standard library only: Ansible ships it to the host.

A lock says which run holds it, who started that run and where, for what and until when (UTC). Taking
and releasing happen under flock, and the record is replaced atomically, so two runs never both hold
it and a power cut leaves either the old record or the new one.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..files import write_atomically

DEFAULT_DIRECTORY = "/var/lib/stationkeeper/locks"
_SCOPE = re.compile(r"^[a-z][a-z0-9_-]*$")


class LockError(RuntimeError):
    """The lock cannot be used at all (bad name, unreadable record)."""


@dataclass(frozen=True)
class Holder:
    """The record in a lock file. `owner` is what `process.describe_process` returned; times RFC 3339."""

    run_id: str
    runbook: str
    purpose: str
    owner: dict[str, Any]
    since: str
    until: str

    def expired(self, now: datetime) -> bool:
        """Whether the lock ran out."""
        return datetime.fromisoformat(self.until) <= now

    def sentence(self, scope: str) -> str:
        """Who, since when, for what, until when, and how to go on."""
        who = (
            f"{self.owner.get('user', '?')}@{self.owner.get('node', '?')} (pid {self.owner.get('pid', '?')})"
        )
        return (
            f"Lock `{scope}` is held by {who} since {self.since} for {self.runbook}: {self.purpose} "
            f"(run {self.run_id}), until {self.until}. Ask them, or wait: it frees itself when that run "
            f"ends, or at the time given, and is taken over at once when that run's process is found dead "
            f"on its own control node."
        )


@dataclass(frozen=True)
class Attempt:
    """What acquiring or releasing did. `takeover` is None, expired, orphaned or preempted."""

    held: bool
    changed: bool
    holder: Holder | None
    takeover: str | None = None
    displaced: Holder | None = None
    message: str = ""


@dataclass(frozen=True)
class Lock:
    """The lock `scope` in `directory`."""

    scope: str
    directory: Path = field(default=Path(DEFAULT_DIRECTORY))

    def __post_init__(self) -> None:
        if not _SCOPE.match(self.scope):
            raise LockError(f"A lock's scope is lower-case letters, digits, - and _, not {self.scope!r}.")

    @property
    def path(self) -> Path:
        """The lock's record."""
        return self.directory / f"{self.scope}.json"

    def read(self) -> Holder | None:
        """Who holds the lock, expired or not."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return Holder(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise LockError(
                f"The lock record {self.path} cannot be read ({error}). Find out who wrote it; "
                "remove it by hand when no run is under way."
            ) from error

    def acquire(
        self,
        *,
        run_id: str,
        runbook: str,
        purpose: str,
        owner: dict[str, Any],
        ttl_s: int,
        now: datetime | None = None,
        orphan_of: str | None = None,
        preempt: bool = False,
        dry_run: bool = False,
    ) -> Attempt:
        """Take the lock for `ttl_s` seconds, or say who holds it.

        The same run may take it again and so renews it. `orphan_of` is the run id of a holder that the
        caller has found dead; it is honoured only while that very run still holds the lock. `preempt`
        takes it from anybody. With `dry_run` nothing is created and nothing taken.
        """
        moment = now or datetime.now(UTC)
        wanted = Holder(
            run_id=run_id,
            runbook=runbook,
            purpose=purpose,
            owner=owner,
            since=_text(moment),
            until=_text(moment + timedelta(seconds=ttl_s)),
        )
        if dry_run:
            return self._decide(wanted, moment, orphan_of, preempt)
        with self._exclusive():
            attempt = self._decide(wanted, moment, orphan_of, preempt)
            if attempt.held and attempt.holder is not None:
                self._write(attempt.holder)
            return attempt

    def _decide(self, wanted: Holder, now: datetime, orphan_of: str | None, preempt: bool) -> Attempt:
        present = self.read()
        if present is None:
            return Attempt(True, True, wanted, message=f"Lock `{self.scope}` taken until {wanted.until}.")
        if present.run_id == wanted.run_id:
            renewed = Holder(**{**asdict(wanted), "since": present.since})
            return Attempt(True, True, renewed, message=f"Lock `{self.scope}` renewed until {wanted.until}.")
        takeover = None
        if present.expired(now):
            takeover = "expired"
        elif orphan_of is not None and present.run_id == orphan_of:
            takeover = "orphaned"
        elif preempt:
            takeover = "preempted"
        if takeover is None:
            return Attempt(False, False, present, message=present.sentence(self.scope))
        message = (
            f"Lock `{self.scope}` taken over ({takeover}) from run {present.run_id} of "
            f"{present.owner.get('user', '?')}@{present.owner.get('node', '?')} ({present.runbook}), "
            f"held until {wanted.until}."
        )
        return Attempt(True, True, wanted, takeover, present, message)

    def release(self, *, run_id: str, dry_run: bool = False) -> Attempt:
        """Give the lock back; only the run that holds it can."""
        if dry_run:
            return self._releasable(run_id)
        if not self.directory.is_dir():
            return Attempt(False, False, None, message=f"Lock `{self.scope}` was free.")
        with self._exclusive():
            attempt = self._releasable(run_id)
            if attempt.changed:
                self.path.unlink()
            return attempt

    def _releasable(self, run_id: str) -> Attempt:
        present = self.read()
        if present is None:
            return Attempt(False, False, None, message=f"Lock `{self.scope}` was free.")
        if present.run_id != run_id:
            return Attempt(
                False,
                False,
                present,
                message=f"Lock `{self.scope}` now belongs to run {present.run_id}: kept.",
            )
        return Attempt(False, True, None, message=f"Lock `{self.scope}` released.")

    def _write(self, holder: Holder) -> None:
        text = json.dumps(asdict(holder), indent=2, sort_keys=True) + "\n"
        write_atomically(self.path, text, mode=0o644)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        with (self.directory / f".{self.scope}.flock").open("w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
