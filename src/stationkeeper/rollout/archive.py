"""Backups of a station's configuration on the control node: archives with a checksum of every file.

Secrets are not in them: the connection to the database (``database.yaml``) is never read, because the
archive is not encrypted. Its content comes from the inventory's secrets again with site.yml.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stationkeeper.files import write_atomically

MANIFEST = "manifest.json"


class ArchiveError(Exception):
    """The archive cannot be used; the text says which and why."""


@dataclass(frozen=True)
class Backup:
    """What one archive holds: ``about`` (station, time, run), configuration files and evidence by path."""

    about: dict[str, Any]
    files: dict[str, str]
    evidence: dict[str, str]

    @property
    def station(self) -> str:
        """The host that it was taken from."""
        return str(self.about.get("station", ""))


def newest(directory: Path, station: str) -> Path | None:
    """Return the newest archive of a station, None when there is none."""
    found = sorted((directory / station).glob(f"{station}-*.tar.gz"))
    return found[-1] if found else None


def equal(path: Path, backup: Backup) -> bool:
    """Whether an archive is whole and holds the same files and evidence."""
    try:
        kept = load(path)
    except ArchiveError:
        return False
    return (kept.files, kept.evidence) == (backup.files, backup.evidence)


def save(directory: Path, backup: Backup, taken_at: str, keep: int) -> tuple[Path, bool]:
    """Write an archive with its checksum beside it, durably; returns it and whether it is new.

    Content that equals the newest archive's is not written again. The newest ``keep`` stay. ``taken_at`` is a
    time as text that sorts (20261121T081500Z).
    """
    last = newest(directory, backup.station)
    if last is not None and equal(last, backup):
        return last, False
    folder = directory / backup.station
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{backup.station}-{taken_at}.tar.gz"
    content = _pack(backup)
    write_atomically(path, content)
    write_atomically(_checksum_of(path), f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")
    for old in sorted(folder.glob(f"{backup.station}-*.tar.gz"))[:-keep]:
        old.unlink()
        _checksum_of(old).unlink(missing_ok=True)
    return path, True


def load(path: Path) -> Backup:
    """Read an archive and check it: its own checksum, and that of every file. Raises ArchiveError."""
    try:
        content = path.read_bytes()
        told = _checksum_of(path).read_text(encoding="utf-8").split()[0]
    except (OSError, IndexError) as error:
        raise ArchiveError(f"{path}: archive or its .sha256 cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != told:
        raise ArchiveError(f"{path}: its content is not what was saved (SHA-256 differs)")
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            texts = {entry.name: _text(tar, entry) for entry in tar}
        manifest = json.loads(texts.pop(MANIFEST))
        sums = manifest["sha256"]
        about = dict(manifest["about"])
    except (tarfile.TarError, OSError, ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"{path}: is no backup of a station: {error}") from error
    if {name: _sum(text) for name, text in texts.items()} != sums:
        raise ArchiveError(f"{path}: its files are not those of its manifest")
    files = {name.removeprefix("files/"): text for name, text in texts.items() if name.startswith("files/")}
    evidence = {
        name.removeprefix("evidence/"): text for name, text in texts.items() if name.startswith("evidence/")
    }
    return Backup(about, files, evidence)


def _text(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    stream = tar.extractfile(entry)
    if stream is None:
        raise ValueError(f"{entry.name} is no file")
    return stream.read().decode()


def _pack(backup: Backup) -> bytes:
    texts = _named("files/", backup.files) | _named("evidence/", backup.evidence)
    manifest = {"about": backup.about, "sha256": {name: _sum(text) for name, text in texts.items()}}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in {MANIFEST: json.dumps(manifest, indent=2) + "\n", **texts}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            entry.mode = 0o600
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def _named(prefix: str, texts: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}{name}": text for name, text in sorted(texts.items())}


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _checksum_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
