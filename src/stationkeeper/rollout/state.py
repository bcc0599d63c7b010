"""The state of a rollout on the control node, so that a run that was stopped or killed can be continued.

One JSON file for each rollout, changed under flock and replaced atomically. Its name follows from the
runbook, from what is rolled out and from the targets: the same call finds it again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stationkeeper.files import write_atomically
from stationkeeper.rollout import waves
from stationkeeper.rollout.waves import PROVEN, RolloutError


@dataclass(frozen=True)
class HostResult:
    """What became of one host, and in which run."""

    status: str
    message: str
    run_id: str
    at: str


@dataclass(frozen=True)
class Rollout:
    """One rollout. ``runs`` are the runs that worked on it, the newest last; times are RFC 3339."""

    id: str
    runbook: str
    what: dict[str, Any]
    targets: list[str]
    waves: list[list[str]]
    runs: list[str]
    started_at: str
    hosts: dict[str, HostResult] = field(default_factory=dict)

    @property
    def canary(self) -> str:
        """The first host."""
        return self.waves[0][0]

    def results(self, run_id: str) -> dict[str, str]:
        """Return the statuses that one run has recorded."""
        return {host: result.status for host, result in self.hosts.items() if result.run_id == run_id}

    @property
    def failures(self) -> dict[str, str]:
        """Return the hosts whose newest result is no proof, with the reason."""
        return {host: result.message for host, result in self.hosts.items() if result.status not in PROVEN}

    @property
    def state(self) -> str:
        """``done`` when every target is proven, ``stopped`` after a failure, else ``unfinished``."""
        if self.failures:
            return "stopped"
        return "done" if set(self.targets) <= set(self.hosts) else "unfinished"


def identity(runbook: str, what: Mapping[str, Any], targets: Sequence[str]) -> str:
    """Return the id: runbook, and 12 hex digits over what is rolled out and where."""
    canonical = json.dumps([dict(what), sorted(targets)], sort_keys=True, separators=(",", ":"), default=str)
    return f"{runbook}-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"


class RolloutFile:
    """The file of one rollout."""

    def __init__(self, directory: Path, rollout_id: str) -> None:
        self.path = directory / f"{rollout_id}.json"

    def read(self) -> Rollout | None:
        """Return the rollout, None when there is no file. Raises RolloutError for one that cannot be used."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            document = json.loads(text)
            hosts = {host: HostResult(**result) for host, result in document.pop("hosts").items()}
            document.pop("state", None)
            return Rollout(**document, hosts=hosts)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RolloutError(
                f"the rollout's state {self.path} cannot be read ({error}); look at it, then move it away"
            ) from error

    def open(self, fresh: Rollout, wave_size: int, canary: str | None, *, dry_run: bool) -> Rollout:
        """Begin ``fresh``, or continue the unfinished rollout in the file with its canary.

        ``fresh`` has the reachable hosts as its only wave. A finished rollout begins anew: it verifies.
        """
        with self._locked(dry_run=dry_run):
            known = self.read()
            (reachable,) = fresh.waves
            if known is None or known.state == "done":
                opened = replace(fresh, waves=waves.plan(reachable, canary, wave_size))
            else:
                first = canary or (known.canary if known.canary in reachable else None)
                opened = replace(
                    known,
                    waves=waves.plan(reachable, first, wave_size),
                    runs=[*known.runs, *fresh.runs],
                )
            if not dry_run:
                self._write(opened)
        return opened

    def record(self, host: str, result: HostResult) -> Rollout:
        """Add one host's result. Raises RolloutError when the rollout was never opened."""
        with self._locked(dry_run=False):
            known = self.read()
            if known is None:
                raise RolloutError(f"{self.path}: there is no such rollout")
            updated = replace(known, hosts={**known.hosts, host: result})
            self._write(updated)
        return updated

    def _write(self, rollout: Rollout) -> None:
        document = asdict(rollout) | {"state": rollout.state}
        write_atomically(self.path, json.dumps(document, indent=2) + "\n")

    @contextmanager
    def _locked(self, *, dry_run: bool) -> Iterator[None]:
        if dry_run:
            yield
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.path.parent / f".{self.path.stem}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
