"""A retired device's rows as a CSV file with its checksum, made by the database itself (COPY)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stationkeeper.registry import rows as registry
from stationkeeper.telemetry.source import READINGS, TelemetryError, reading, snapshot

COPY_LIMIT_S = 3600.0


@dataclass(frozen=True)
class Archive:
    """One archive: the file, its SHA-256 in hexadecimal, its data rows, and whether it was written now."""

    path: Path
    sha256: str
    rows: int
    changed: bool


class _Hashing(io.RawIOBase):
    """Passes bytes on, and keeps their checksum and the number of lines."""

    def __init__(self, stream: io.BufferedIOBase | Any) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()
        self.lines = 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.lines += bytes(data).count(b"\n")
        self.stream.write(data)
        return len(data)


def archive(settings: Mapping[str, Any], name: str, directory: Path, *, dry_run: bool = False) -> Archive:
    """Write the rows of a retired device to ``directory/<name>_<id>.csv``, oldest first, times in UTC.

    Beside it lie ``.sha256`` (for `sha256sum -c`) and ``.json`` (its registry row). A file whose content is
    the same stays untouched. With ``dry_run`` nothing is written and ``sha256`` is empty. Raises
    TelemetryError for a device that is unknown or in service, and OSError.
    """
    from psycopg2 import sql

    with reading(settings) as connection:
        device = next((row for row in registry.read(connection) or [] if row.name == name), None)
        if device is None:
            raise TelemetryError(f"device {name}: the registry has none of this name")
        if device.active_to is None:
            raise TelemetryError(f"device {name} is in service: only a retired device's rows are complete")
        path = directory / f"{name}_{device.id}.csv"
        table = sql.Identifier("flux", READINGS[device.type])
        with snapshot(connection, timeout_s=COPY_LIMIT_S) as cursor:
            where = sql.SQL("{} WHERE device_id = {}").format(table, sql.Literal(device.id))
            cursor.execute(sql.SQL("SELECT count(*) FROM ") + where)
            counted = cursor.fetchone()
            expected = int(counted[0]) if counted else 0
            if dry_run:
                return Archive(path, "", expected, not path.exists())
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Rows come as a stream and are thrown away when they are too few or the same as before.
            handle, temporary = tempfile.mkstemp(dir=directory, prefix=f".{path.name}.")
            try:
                with os.fdopen(handle, "wb") as stream:
                    out = _Hashing(stream)
                    query = sql.SQL("COPY (SELECT * FROM {} ORDER BY time) TO STDOUT (FORMAT csv, HEADER)")
                    cursor.copy_expert(query.format(where), out)
                    stream.flush()
                    os.fsync(stream.fileno())
                if out.lines - 1 != expected:
                    raise TelemetryError(
                        f"device {name}: the archive has {out.lines - 1} rows, the database {expected}"
                    )
                checksum = out.digest.hexdigest()
                changed = _checksum(path) != checksum
                if changed:
                    Path(temporary).replace(path)
                    temporary = ""
            finally:
                if temporary:
                    Path(temporary).unlink()
    _beside(path, checksum, device)
    return Archive(path, checksum, expected, changed)


def _checksum(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _beside(path: Path, checksum: str, device: registry.Row) -> None:
    path.with_suffix(".csv.sha256").write_text(f"{checksum}  {path.name}\n", encoding="utf-8")
    text = json.dumps(device.as_dict(), indent=2, sort_keys=True) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")
