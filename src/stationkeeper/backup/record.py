"""What was verified and how runs ended, in one file on the repository host: pgBackRest keeps neither."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .content import Backup
from .verification import Problem, Report


@dataclass
class Record:
    """Times in seconds since 1970 UTC."""

    #: ``repository/label`` to when it was last found valid, with all that it is based on.
    verified: dict[str, float] = field(default_factory=dict)
    #: Repository to when it was last verified as a whole, and what was wrong (subject and message).
    verifications: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Kind to how its last run ended: at, succeeded, message.
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def verified_at(self, backup: Backup) -> float | None:
        """Return when a backup was last found valid."""
        return self.verified.get(f"{backup.repository}/{backup.label}")

    def add_verification(
        self, repository: int, report: Report, found: Sequence[Problem], backups: Sequence[Backup], at: float
    ) -> None:
        """Note a verification; a backup that is not valid any more loses its note."""
        bad = {problem.subject for problem in found}
        prefix = f"{repository}/"
        kept = {key: when for key, when in self.verified.items() if not key.startswith(prefix)}
        for backup in backups:
            chain = (*backup.references, backup.label)
            if report.proves(chain) and not bad & set(chain):
                kept[prefix + backup.label] = at
        self.verified = kept
        problems = [asdict(problem) for problem in found]
        self.verifications[str(repository)] = {"at": at, "problems": problems}

    def add_run(self, kind: str, *, succeeded: bool, message: str, at: float) -> None:
        """Note how a run ended."""
        self.runs[kind] = {"at": at, "succeeded": succeeded, "message": message}


def load(path: Path) -> Record:
    """Return the record; an empty one where there is none yet. Raises OSError and ValueError."""
    try:
        return Record(**json.loads(path.read_text()))
    except FileNotFoundError:
        return Record()


def save(path: Path, record: Record) -> None:
    """Write the record. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(record), indent=1) + "\n", mode=0o644)
