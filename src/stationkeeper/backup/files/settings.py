"""What a host backs up, and where to: the file that role file_backup writes.

Standard library only, Python 3.11: it runs on every host.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Kinds of backups: each has a timer, a result and figures of its own.
KINDS = ("files", "cache")


class BackupError(Exception):
    """A backup, its verification or a restore failed; the message says why and what helps."""


@dataclass(frozen=True)
class Step:
    """A consistent copy that is made before a set is saved.

    ``sqlite`` copies the database ``path``, ``redis`` asks the cache for what would stand in ``path``, and
    ``signal`` has ``unit`` write ``path`` anew and copies nothing.
    """

    type: str
    path: Path
    unit: str = ""


@dataclass(frozen=True)
class BackupSet:
    """Data that is saved and restored together.

    ``paths`` must be there, ``paths_if_present`` and what ``before`` copies of absent programs need not.
    ``services`` are stopped while the set is put back in place; ``scratch_only`` never goes back in place.
    """

    name: str
    kind: str
    paths: tuple[Path, ...]
    paths_if_present: tuple[Path, ...]
    exclude: tuple[str, ...]
    before: tuple[Step, ...]
    services: tuple[str, ...]
    scratch_only: tuple[Path, ...]

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> BackupSet:
        """Return a set from its JSON form."""
        return cls(
            name=value["name"],
            kind=value.get("kind", "files"),
            paths=_paths(value, "paths"),
            paths_if_present=_paths(value, "paths_if_present"),
            exclude=tuple(value.get("exclude", ())),
            before=tuple(
                Step(step["type"], Path(step["path"]), step.get("unit", ""))
                for step in value.get("before", ())
            ),
            services=tuple(value.get("services", ())),
            scratch_only=_paths(value, "scratch_only"),
        )


@dataclass(frozen=True)
class RedisAddress:
    """Where the cache answers, and as whom to log in."""

    host: str
    port: int
    user: str
    password: str


@dataclass(frozen=True)
class Settings:
    """A host's part in the backups."""

    host: str
    repository: str
    passphrase_file: Path
    #: Of the connection to the repository; none for a repository in a local directory.
    ssh_config: Path | None
    state: Path
    metrics: Path
    verify_percent: int
    sample_files: int
    keep_daily: int
    keep_monthly: int
    redis: RedisAddress | None
    sets: tuple[BackupSet, ...]

    @property
    def staging(self) -> Path:
        """Where consistent copies stand while they are saved, below the name of their set."""
        return self.state / "staging"

    def of_kind(self, kind: str) -> list[BackupSet]:
        """Return the sets of a kind."""
        return [one for one in self.sets if one.kind == kind]

    def named(self, name: str) -> BackupSet:
        """Return the set of a name. Raises BackupError."""
        for one in self.sets:
            if one.name == name:
                return one
        message = (
            f"{self.host} has no set {name}; it has {', '.join(one.name for one in self.sets) or 'none'}"
        )
        raise BackupError(message)


def load(path: Path) -> Settings:
    """Return the settings of this host. Raises BackupError."""
    try:
        value = json.loads(path.read_text())
        redis = value["redis"]
        return Settings(
            host=value["host"],
            repository=value["repository"],
            passphrase_file=Path(value["passphrase_file"]),
            ssh_config=Path(value["ssh_config"]) if value["ssh_config"] else None,
            state=Path(value["state"]),
            metrics=Path(value["metrics"]),
            verify_percent=value["verify_percent"],
            sample_files=value["sample_files"],
            keep_daily=value["keep_daily"],
            keep_monthly=value["keep_monthly"],
            redis=RedisAddress(**redis) if redis else None,
            sets=tuple(BackupSet.of(one) for one in value["sets"]),
        )
    except FileNotFoundError:
        message = f"{path} is not there: site.yml sets up this host's backups"
        raise BackupError(message) from None
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} is damaged ({error!r}): site.yml writes it again"
        raise BackupError(message) from error


def _paths(value: Mapping[str, Any], key: str) -> tuple[Path, ...]:
    return tuple(Path(path) for path in value.get(key, ()))
