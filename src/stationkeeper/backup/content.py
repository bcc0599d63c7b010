"""What pgBackRest's repositories say that they hold: backups, archives of WAL, and whether they answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: The repository of the archives that are kept for a year.
ARCHIVE_REPOSITORY = 2


@dataclass(frozen=True)
class Backup:
    """One backup. Times in seconds since 1970 UTC, sizes in bytes, WAL as names of segments."""

    label: str
    type: str
    repository: int
    began: float
    ended: float
    wal_first: str
    wal_last: str
    size: int
    stored: int
    archive: str
    page_errors: bool
    references: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Return the kind that objectives and figures know it by."""
        return f"database_{'archive' if self.repository == ARCHIVE_REPOSITORY else self.type}"


@dataclass(frozen=True)
class Repository:
    """What a repository says of itself; code 0 is good, 2 is good but for a backup that it lacks."""

    key: int
    code: int
    message: str

    @property
    def answers(self) -> bool:
        """Return whether it can be read with the settings that there are."""
        return self.code in (0, 2)


@dataclass(frozen=True)
class Content:
    """All repositories of a stanza; backups in the order in which they were made."""

    repositories: tuple[Repository, ...]
    backups: tuple[Backup, ...]
    #: For each repository, the archives of WAL (``17-1``: of PostgreSQL 17, the first system of the stanza).
    archives: tuple[tuple[int, str], ...]
    #: Whether a backup runs now.
    busy: bool

    def of(self, repository: int) -> tuple[Backup, ...]:
        """Return the backups of one repository."""
        return tuple(backup for backup in self.backups if backup.repository == repository)

    def chain(self, backup: Backup) -> tuple[str, ...]:
        """Return the labels that a restore of a backup reads: its own and those that it is based on."""
        return (*backup.references, backup.label)


def parse(info: Iterable[Mapping[str, Any]], stanza: str) -> Content:
    """Return the content of one stanza out of what `pgbackrest info --output=json` says."""
    entry = next((one for one in info if one["name"] == stanza), None)
    if entry is None or "repo" not in entry:
        return Content((Repository(1, 1, "there is no such stanza"),), (), (), busy=False)
    archives = {(one["database"]["repo-key"], one["database"]["id"]): one["id"] for one in entry["archive"]}
    backups = [_backup(one, archives) for one in entry["backup"]]
    repositories = [
        Repository(one["key"], one["status"]["code"], _readable(one["status"]["message"]))
        for one in entry["repo"]
    ]
    return Content(
        tuple(repositories),
        tuple(sorted(backups, key=lambda backup: (backup.began, backup.label))),
        tuple(sorted((key[0], name) for key, name in archives.items())),
        busy=bool(entry["status"].get("lock", {}).get("backup", {}).get("held")),
    )


def _readable(message: str) -> str:
    """Return the first line of a message; with a wrong passphrase there are random bytes in the next ones."""
    lines = message.splitlines() or [""]
    return "".join(letter for letter in lines[0] if letter.isprintable())


def _backup(one: Mapping[str, Any], archives: Mapping[tuple[int, int], str]) -> Backup:
    database = (one["database"]["repo-key"], one["database"]["id"])
    return Backup(
        label=one["label"],
        type=one["type"],
        repository=database[0],
        began=float(one["timestamp"]["start"]),
        ended=float(one["timestamp"]["stop"]),
        wal_first=one["archive"]["start"],
        wal_last=one["archive"]["stop"],
        size=one["info"]["size"],
        stored=one["info"]["repository"]["delta"],
        archive=archives.get(database, ""),
        page_errors=bool(one.get("error")),
        references=tuple(one.get("reference") or ()),
    )
