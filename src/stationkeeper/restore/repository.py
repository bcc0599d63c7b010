"""What the backup repository has, and which of its backups a restore needs.

Standard library only: Ansible ships this file to the database host.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from .request import Request, RestoreError, rfc3339


@dataclass(frozen=True)
class Backup:
    """One backup. ``size`` is that of the database in bytes; ``damaged`` when pages of it were wrong.

    ``repository`` is the number by which pgBackRest knows where it lies.
    """

    label: str
    stop: datetime
    size: int
    damaged: bool = False
    repository: int = 1


@dataclass(frozen=True)
class Repository:
    """The backups of one stanza, oldest first, and the newest WAL segment in its archive.

    ``unanswered`` says of which repositories nothing is known, and why.
    """

    backups: tuple[Backup, ...]
    archived_to: str | None = None
    unanswered: tuple[str, ...] = ()


def merged(found: Sequence[Repository], unanswered: Sequence[str]) -> Repository:
    """Return what several repositories have together."""
    ends = [one.archived_to for one in found if one.archived_to]
    backups = sorted((backup for one in found for backup in one.backups), key=lambda backup: backup.stop)
    return Repository(tuple(backups), max(ends, default=None), tuple(unanswered))


def parse_info(text: str, stanza: str, repository: int = 1) -> Repository:
    """Read the output of ``pgbackrest --output=json info`` about one repository. Raises RestoreError."""
    try:
        entry = next(entry for entry in json.loads(text) if entry["name"] == stanza)
        # After an upgrade the repository has the backups of the older cluster too.
        current = max((database["id"] for database in entry["db"]), default=None)
        backups = [
            Backup(
                label=backup["label"],
                stop=datetime.fromtimestamp(backup["timestamp"]["stop"], UTC),
                size=backup["info"]["size"],
                damaged=bool(backup.get("error")),
                repository=repository,
            )
            for backup in entry["backup"]
            if backup["database"]["id"] == current
        ]
        ends = [part["max"] for part in entry["archive"] if part["database"]["id"] == current and part["max"]]
    except StopIteration:
        raise RestoreError(f"the repository has no stanza {stanza}; backup_run makes it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RestoreError(f"the answer of `pgbackrest info` is not understood: {error!r}") from None
    if not backups:
        status = entry.get("status", {}).get("message", "no backup")
        raise RestoreError(f"the repository has no backup of {stanza} ({status}); backup_run makes one")
    return Repository(tuple(sorted(backups, key=lambda backup: backup.stop)), max(ends) if ends else None)


def choose(repository: Repository, request: Request) -> Backup:
    """Return the backup to begin with: the newest that ended before the target, or the one that is named.

    Left to itself, pgBackRest takes the newest backup of all when none is old enough, and recovers to
    somewhere else. Raises RestoreError with the times that can be reached.
    """
    backups = repository.backups
    if request.backup is not None:
        backups = tuple(backup for backup in backups if backup.label == request.backup)
        if not backups:
            labels = ", ".join(backup.label for backup in repository.backups)
            unknown = "".join(f"; {one}" for one in repository.unanswered)
            raise RestoreError(f"the repository has no backup {request.backup}; it has {labels}{unknown}")
    if request.time is not None:
        target = request.time
        # The repository keeps whole seconds.
        fitting = tuple(backup for backup in backups if backup.stop + timedelta(seconds=1) <= target)
        if not fitting:
            which = f"backup {request.backup}" if request.backup else "the oldest backup"
            raise RestoreError(
                f"{rfc3339(target)} is before {which} was complete, at {rfc3339(backups[0].stop)}:"
                " it can only be restored to a later time"
            )
        backups = fitting
    whole = [backup for backup in backups if not backup.damaged]
    if not whole:
        raise RestoreError(f"backup {backups[-1].label} was taken from damaged pages; name another one")
    return whole[-1]
