"""What an archive promises: its files, their checksums, and count and checksum of each device's hours.

The manifest is written last and atomically, so a directory without one holds no archive. It carries a
checksum of itself; with it and those of the files, whatever was changed or cut off since is found before it
is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from stationkeeper.telemetry.backfill.proof import Hour, Proof, as_json
from stationkeeper.telemetry.backfill.tables import check_columns
from stationkeeper.telemetry.source import TelemetryError, parse_time, rfc3339

NAME = "manifest.json"
VERSION = 1
FORMATS = ("parquet", "csv")


@dataclass(frozen=True)
class ArchiveFile:
    """Rows of one device and one day. ``path`` is relative to the archive; ``hours`` prove its content."""

    path: str
    table: str
    device: str
    sha256: str
    bytes: int
    rows: int
    first: datetime
    last: datetime
    hours: Proof


@dataclass(frozen=True)
class Manifest:
    """An archive of the rows in [start, end). ``tables`` maps names to columns and their types."""

    directory: Path
    format: str
    start: datetime
    end: datetime
    sites: tuple[str, ...]
    tables: Mapping[str, Mapping[str, str]]
    files: tuple[ArchiveFile, ...]

    @property
    def rows(self) -> int:
        """Number of rows of all files."""
        return sum(file.rows for file in self.files)


def write_manifest(manifest: Manifest) -> None:
    """Write the manifest into its directory, whole or not at all."""
    document = _document(manifest)
    document["checksum"] = fingerprint(manifest)
    handle, temporary = tempfile.mkstemp(dir=manifest.directory, prefix=f".{NAME}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(document, stream, indent=1, sort_keys=True)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(manifest.directory / NAME)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(manifest.directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_manifest(directory: Path) -> Manifest:
    """Read and verify a manifest; its files must be there with their sizes.

    Their content is verified when it is read (`verify_file`). Raises TelemetryError with what is wrong.
    """
    path = directory / NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        checksum = document.pop("checksum")
        version = document["schema_version"]
    except FileNotFoundError:
        raise TelemetryError(
            f"{directory} holds no archive: {NAME} is not there, so writing it did not end"
        ) from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise TelemetryError(f"{path} cannot be read as a manifest") from None
    if checksum != _checksum(document):
        raise TelemetryError(
            f"{path} is not as it was written: its checksum is wrong; the archive is refused"
        )
    if version != VERSION:
        raise TelemetryError(f"{path} is of version {version}, this program reads version {VERSION}")
    try:
        manifest = _manifest(directory, document)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise TelemetryError(f"{path} is incomplete: {error}") from None
    for name, columns in manifest.tables.items():
        check_columns(f"{path}: {name}", columns)
    for file in manifest.files:
        _check_place(manifest, file)
    return manifest


def fingerprint(manifest: Manifest) -> str:
    """Return the checksum of a manifest: another one means another archive, or one that was changed."""
    return _checksum(_document(manifest))


def verify_file(manifest: Manifest, file: ArchiveFile) -> Path:
    """Return the path of a file whose content is the one of the manifest. Raises TelemetryError."""
    path = manifest.directory / file.path
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise TelemetryError(f"{path} cannot be read: {error.strerror}") from None
    if found != file.sha256:
        raise TelemetryError(f"{path} is not as it was archived: its SHA-256 is wrong; it is refused")
    return path


def _check_place(manifest: Manifest, file: ArchiveFile) -> None:
    pure = PurePosixPath(file.path)
    path = manifest.directory / file.path
    if pure.is_absolute() or ".." in pure.parts or path.is_symlink():
        raise TelemetryError(
            f"{manifest.directory / NAME} names a file outside of its directory: {file.path}"
        )
    try:
        size = path.stat().st_size
    except OSError as error:
        raise TelemetryError(f"{path} cannot be read: {error.strerror}") from None
    if size != file.bytes:
        raise TelemetryError(f"{path} has {size} bytes instead of {file.bytes}: it is refused")


def _document(manifest: Manifest) -> dict[str, Any]:
    return {
        "schema_version": VERSION,
        "format": manifest.format,
        "from": rfc3339(manifest.start),
        "to": rfc3339(manifest.end),
        "sites": list(manifest.sites),
        # Pairs: an object would lose the order of the columns.
        "tables": {name: list(columns.items()) for name, columns in manifest.tables.items()},
        "rows": manifest.rows,
        "files": [
            {
                "path": file.path,
                "table": file.table,
                "device": file.device,
                "sha256": file.sha256,
                "bytes": file.bytes,
                "rows": file.rows,
                "first": rfc3339(file.first),
                "last": rfc3339(file.last),
                "hours": as_json(file.hours),
            }
            for file in manifest.files
        ],
    }


def _manifest(directory: Path, document: Mapping[str, Any]) -> Manifest:
    if document["format"] not in FORMATS:
        raise ValueError(f"format {document['format']!r} is unknown")
    files = []
    for one in document["files"]:
        hours = {parse_time(at): Hour(int(rows), int(hash_)) for at, (rows, hash_) in one["hours"].items()}
        times = {"first": parse_time(one["first"]), "last": parse_time(one["last"]), "hours": hours}
        files.append(ArchiveFile(**(one | times)))
        if sum(hour.rows for hour in hours.values()) != one["rows"]:
            raise ValueError(f"the hours of {one['path']} do not add up to its rows")
    return Manifest(
        directory,
        document["format"],
        parse_time(document["from"]),
        parse_time(document["to"]),
        tuple(document["sites"]),
        {name: dict(columns) for name, columns in document["tables"].items()},
        tuple(files),
    )


def _checksum(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
