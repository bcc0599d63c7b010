"""The program restic, as this package calls it (0.14 of Debian 12 and later)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .settings import BackupError, Settings

# A whole repository is read over the network at worst; systemd's own limit ends a run earlier.
_TIMEOUT_S = 6 * 3600
VERIFIED = "verified"


@dataclass(frozen=True)
class Snapshot:
    """What a repository has of one set at one moment; ``time`` is restic's, in RFC 3339."""

    id: str
    time: str
    tags: tuple[str, ...]

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Snapshot:
        """Return a snapshot from restic's JSON."""
        return cls(value["id"], value["time"], tuple(value.get("tags") or ()))

    @property
    def set(self) -> str:
        """The name of the set that was saved."""
        return next((tag.removeprefix("set=") for tag in self.tags if tag.startswith("set=")), "")

    @property
    def verified(self) -> bool:
        """Whether a sample of it has been restored and compared."""
        return VERIFIED in self.tags


class Restic:
    """One repository."""

    def __init__(self, settings: Settings, program: str = "restic") -> None:
        self._settings = settings
        connection = []
        if settings.ssh_config is not None:
            # The words after `ssh` are the repository's host and the subsystem.
            connection = ["-o", f"sftp.command=ssh -F {settings.ssh_config} backups -s sftp"]
        self._command = [program, *connection]
        self._environment = {
            **os.environ,
            "RESTIC_REPOSITORY": settings.repository,
            "RESTIC_PASSWORD_FILE": str(settings.passphrase_file),
            "RESTIC_CACHE_DIR": str(settings.state / "cache"),
        }

    def __call__(self, *arguments: str, timeout_s: float = _TIMEOUT_S) -> str:
        """Run a command of restic and return its output. Raises BackupError with restic's words."""
        try:
            done = subprocess.run(
                [*self._command, *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout_s,
            )
        except FileNotFoundError:
            message = "restic is not installed: site.yml installs it"
            raise BackupError(message) from None
        except subprocess.TimeoutExpired:
            message = f"restic {arguments[0]} took more than {timeout_s:.0f} s"
            raise BackupError(message) from None
        if done.returncode != 0:
            raise BackupError(_reason(arguments[0], done.returncode, done.stderr, done.stdout))
        return done.stdout

    def exists(self) -> bool:
        """Return whether the repository is there and opens with the passphrase. Raises BackupError."""
        try:
            self("cat", "config", timeout_s=120)
        except BackupError as error:
            if "Is there a repository at" in str(error) or "repository does not exist" in str(error):
                return False
            raise
        return True

    def save(self, paths: Sequence[Path], exclude: Sequence[str], tags: Sequence[str]) -> dict[str, Any]:
        """Save paths as one snapshot and return restic's summary of it.

        A file that could not be read fails it. Raises BackupError.
        """
        arguments = ["backup", "--json", "--quiet", "--host", self._settings.host]
        arguments += [f"--tag={tag}" for tag in tags]
        arguments += [f"--exclude={pattern}" for pattern in exclude]
        told = self(*arguments, "--", *(str(path) for path in paths))
        for line in told.splitlines():
            record = json.loads(line)
            if record.get("message_type") == "summary" and record.get("snapshot_id"):
                return dict(record)
        message = f"restic backup made no snapshot: {told[-300:]}"
        raise BackupError(message)

    def snapshots(self) -> list[Snapshot]:
        """Return all snapshots of this host, the newest last. Raises BackupError."""
        told = json.loads(self("snapshots", "--json", "--host", self._settings.host)) or []
        return sorted((Snapshot.of(one) for one in told), key=lambda one: one.time)

    def files(self, snapshot: str, *choice: str) -> tuple[Snapshot, list[dict[str, Any]]]:
        """Return a snapshot with what is in it: path, type, size, mode, uid, gid.

        ``snapshot`` is an id, or latest of those that the options in ``choice`` name. Raises BackupError.
        """
        found: Snapshot | None = None
        nodes = []
        for line in self("ls", "--json", "--no-lock", *choice, snapshot).splitlines():
            record = json.loads(line)
            if record.get("struct_type") == "snapshot":
                found = Snapshot.of(record)
            elif record.get("struct_type") == "node":
                nodes.append(record)
        if found is None:
            # restic 0.14 ends well when no id begins so.
            message = "no matching ID was found"
            raise BackupError(message)
        return found, nodes


@contextlib.contextmanager
def locked(settings: Settings, *, wait: bool) -> Iterator[None]:
    """Be the only one on this host that works with its repository. Raises BackupError.

    So a lock that restic finds in the repository is that of a killed run, and `restic unlock` may go first.
    """
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (settings.state / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            message = f"another backup or restore of {settings.host} is running: wait for its end"
            raise BackupError(message) from None
        yield


def _reason(command: str, code: int, stderr: str, stdout: str) -> str:
    """Return what restic said, in one line, with what helps."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    said = " ".join(lines[-4:]) or stdout.strip()[-300:]
    if "wrong password" in said or "ciphertext verification failed" in said:
        said += " (the passphrase is secret_backup_files_passphrase of the inventory)"
    elif "Permission denied" in said or "Host key verification failed" in said:
        said += " (the host's key and the repository's host key come from site.yml)"
    return f"restic {command} failed ({code}): {said}"
