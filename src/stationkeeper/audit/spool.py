"""Keep records that the chain could not take, and hand them to it later."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from stationkeeper.audit import record
from stationkeeper.audit.chain import Session
from stationkeeper.audit.paths import AuditPaths, spool_directory


class SpoolError(Exception):
    """The spool folder is not safe to use; the message says why."""


def write(paths: AuditPaths, run_id: str, entries: Iterable[Mapping[str, Any]]) -> Path:
    """Write ``{event, at, data}`` entries of one run aside; return the file. Raises OSError or SpoolError."""
    folder = spool_directory()
    folder.mkdir(mode=0o700, exist_ok=True)
    _check(folder)
    path = folder / f"{_prefix(paths)}-{run_id}.jsonl"
    lines = [record.canonical(record.normalise({**entry, "run_id": run_id})) + b"\n" for entry in entries]
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(b"".join(lines))
        stream.flush()
        os.fsync(stream.fileno())
    return path


def take(paths: AuditPaths, session: Session) -> list[Path]:
    """Add what this chain's spool holds to the session; return the files to delete once it is written.

    Lines that are damaged are recorded as such, with their checksum. Raises SpoolError.
    """
    folder = spool_directory()
    if not folder.is_dir():
        return []
    _check(folder)
    files = sorted(folder.glob(f"{_prefix(paths)}-*.jsonl"))
    for path in files:
        for line in path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
                event, run_id = str(entry["event"]), str(entry["run_id"])
                at, data = datetime.fromisoformat(entry["at"]), dict(entry["data"])
            except (ValueError, KeyError, TypeError):
                damaged = {"spool": path.name, "sha256": hashlib.sha256(line).hexdigest()}
                session.add("SPOOL_DAMAGED", "", damaged)
                continue
            session.add(event, run_id, {**data, "spooled": True}, at=at)
    return files


def _prefix(paths: AuditPaths) -> str:
    """Several repositories may share one spool folder; this names the chain by its place."""
    return hashlib.sha256(str(paths.directory.resolve()).encode()).hexdigest()[:12]


def _check(folder: Path) -> None:
    """Refuse a folder that somebody else could have prepared."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise SpoolError(f"{folder} must be a folder of user {os.geteuid()} with mode 0700")
