"""Where the audit chain of a control node lies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from stationkeeper.runbooks.state import state_directory

RUN_VARIABLE = "STATIONKEEPER_RUN_ID"
HEALTH_VARIABLE = "STATIONKEEPER_AUDIT_STATE"
SETTINGS_VARIABLE = "STATIONKEEPER_AUDIT_DSN_FILE"
SPOOL_VARIABLE = "STATIONKEEPER_AUDIT_SPOOL"


@dataclass(frozen=True)
class AuditPaths:
    """The files of one audit chain."""

    directory: Path

    @classmethod
    def default(cls) -> AuditPaths:
        """Return the paths of this control node's chain."""
        return cls.at(None)

    @classmethod
    def at(cls, directory: Path | str | None) -> AuditPaths:
        """Return the paths of the chain in a folder; without one, of this control node's chain."""
        return cls(Path(directory) if directory else state_directory() / "audit")

    @property
    def chain(self) -> Path:
        """The records, one JSON object a line."""
        return self.directory / "chain.jsonl"

    @property
    def head(self) -> Path:
        """The signed position of the last record, and the runs that have not ended."""
        return self.directory / "head"

    @property
    def lock(self) -> Path:
        """The file that appenders lock."""
        return self.directory / "lock"

    @property
    def private_key(self) -> Path:
        """The Ed25519 private key (0600)."""
        return self.directory / "signing_key.pem"

    @property
    def keys(self) -> Path:
        """The folder of public keys, ``<key id>.pub``."""
        return self.directory / "keys"

    @property
    def archive(self) -> Path:
        """The folder of chains that were closed."""
        return self.directory / "archive"

    @property
    def chains(self) -> list[Path]:
        """The chains that were closed, the oldest first, and after them the one in use, there or not."""
        return [*sorted(self.archive.glob("*.jsonl")), self.chain]

    @property
    def settings(self) -> Path:
        """Connection to the database that receives copies (0600)."""
        return self.directory / "database.json"


def spool_directory() -> Path:
    """Return the folder for records that the chain could not take.

    It lies on another file system than the chain where there is one (``$STATIONKEEPER_AUDIT_SPOOL``, default
    ``/var/tmp/stationkeeper-audit-<uid>``), because a full disk is the usual reason.
    """
    configured = os.environ.get(SPOOL_VARIABLE)
    return Path(configured) if configured else Path(f"/var/tmp/stationkeeper-audit-{os.getuid()}")  # noqa: S108 (owner and mode are checked before use)
