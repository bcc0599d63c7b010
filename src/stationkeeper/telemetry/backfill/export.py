"""Write the rows of a window and some sites to an archive, and read an archive back to prove it.

Rows, counts and checksums come from one state of the database. One file holds one device and one day (UTC).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from psycopg2 import sql

from stationkeeper.telemetry.backfill.archive import ArchiveSource
from stationkeeper.telemetry.backfill.batch import Batch, Fetched
from stationkeeper.telemetry.backfill.files import read_csv, require_arrow, schema
from stationkeeper.telemetry.backfill.manifest import (
    NAME,
    ArchiveFile,
    Manifest,
    read_manifest,
    verify_file,
    write_manifest,
)
from stationkeeper.telemetry.backfill.proof import Proof, prove, total
from stationkeeper.telemetry.backfill.slices import DAY, Slice, cut, floor
from stationkeeper.telemetry.backfill.tables import Table, check_fit, read_tables
from stationkeeper.telemetry.source import (
    REGISTRY,
    Device,
    TelemetryError,
    aware,
    changing,
    check_sites,
    rfc3339,
    snapshot,
)

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

_MICROSECOND = timedelta(microseconds=1)


class OtherRowsError(TelemetryError):
    """A directory holds an archive of other rows. ``grown``: the database has all of them still, and more."""

    def __init__(self, message: str, *, grown: bool) -> None:
        super().__init__(message)
        self.grown = grown


@dataclass(frozen=True)
class Export:
    """An archive that is there, would be (check mode: no files), or was there already (not ``changed``)."""

    directory: Path
    rows: int
    devices: int
    files: int
    changed: bool


@dataclass(frozen=True)
class _Part:
    device: Device
    table: Table
    day: Slice
    proof: Proof


def export(
    connection: Connection,
    directory: Path,
    start: datetime,
    end: datetime,
    *,
    sites: Sequence[str] | None = None,
    format: str = "parquet",
    schema_name: str = "flux",
    dry_run: bool = False,
    timeout_s: float = 3600.0,
) -> Export:
    """Write the rows of [start, end) to ``directory``. An archive that holds just these rows stays untouched.

    Raises TelemetryError for an empty window and an unknown site, and OtherRowsError for a directory with an
    archive of other rows: an archive is never overwritten, it may hold what the database has no more.
    """
    require_arrow()
    start, end = aware(start), aware(end)
    if start >= end:
        raise TelemetryError("the window is empty: it ends before it begins")
    with snapshot(connection, timeout_s=timeout_s) as cursor:
        check_sites(cursor, schema_name, sites)
        tables = read_tables(cursor, schema_name)
        archived = read_manifest(directory) if (directory / NAME).exists() else None
        then = _tables_of(archived, tables) if archived else tables
        parts = list(_parts(cursor, schema_name, then, Slice(start, end), sites))
        rows = sum(total(part.proof) for part in parts)
        devices = len({part.device.id for part in parts})
        if archived:
            _require_rows(archived, start, end, parts)
            return Export(directory, rows, devices, len(parts), False)
        # Rows that came late would be refused beside an archive of nothing.
        if dry_run or not parts:
            return Export(directory, rows, devices, len(parts), bool(parts))
        _make(directory)
        files = tuple(_write(cursor, directory, format, part) for part in parts)
    columns = {table.name: table.columns for table in tables.values()}
    write_manifest(Manifest(directory, format, start, end, tuple(sorted(sites or ())), columns, files))
    return Export(directory, rows, devices, len(files), True)


def read_back(
    connection: Connection, directory: Path, *, schema_name: str = "flux", timeout_s: float = 3600.0
) -> int:
    """Read a whole archive into a temporary table, hour by hour against its manifest; return its rows.

    Nothing of the database changes. Raises TelemetryError with the first thing that is not as archived.
    """
    manifest = read_manifest(directory)
    source = ArchiveSource(str(directory), directory)
    with snapshot(connection, timeout_s=timeout_s) as cursor:
        tables = read_tables(cursor, schema_name)
    source.check(tables)
    kinds = {table.name: kind for kind, table in tables.items()}
    for file in manifest.files:
        kind = kinds[file.table]
        device = Device(file.device, file.device, "", kind, "", 0.0)
        span = Slice(file.first, file.last + _MICROSECOND).hours
        data = io.BytesIO()
        proof = source.fetch(device, tables[kind], span.start, span.end, data)
        with changing(connection, timeout_s=timeout_s) as cursor:
            staged = Batch(cursor, schema_name, kind, tables[kind], device.id).stage(
                Fetched(str(directory / file.path), span, data, proof)
            )
        if {hour: one.rows for hour, one in staged.items()} != {h: one.rows for h, one in file.hours.items()}:
            raise TelemetryError(f"{directory / file.path} has other hours than its manifest says")
    return manifest.rows


def _parts(
    cursor: Cursor, schema_name: str, tables: dict[str, Table], window: Slice, sites: Sequence[str] | None
) -> Iterator[_Part]:
    cursor.execute(
        sql.SQL(
            "SELECT id::text, name, site, type, profile, extract(epoch FROM cadence)::float8 FROM {}"
            " WHERE %(sites)s::text[] IS NULL OR site = ANY (%(sites)s) ORDER BY site, name"
        ).format(sql.Identifier(schema_name, REGISTRY)),
        {"sites": list(sites) if sites else None},
    )
    for device in [Device(*row) for row in cursor.fetchall()]:
        table = tables[device.type]
        proof = prove(cursor, table, device.id, window.start, window.end)
        for day in sorted({floor(hour, DAY) for hour in proof}):
            span = Slice(max(window.start, day), min(window.end, day + DAY))
            yield _Part(device, table, span, {h: one for h, one in proof.items() if floor(h, DAY) == day})


def _tables_of(manifest: Manifest, tables: dict[str, Table]) -> dict[str, Table]:
    """Return the tables with the columns that they had when an archive was written."""
    then = manifest.tables
    for table in tables.values():
        offered = then.get(table.name, {})
        check_fit(f"{manifest.directory}: {table.name}", offered, table, lacking=table.optional)
    return {kind: replace(table, columns=then[table.name]) for kind, table in tables.items()}


def _require_rows(manifest: Manifest, start: datetime, end: datetime, parts: Sequence[_Part]) -> None:
    """Verify an archive's files, and that it holds just the rows of the database. Raises OtherRowsError."""
    for file in manifest.files:
        verify_file(manifest, file)
    archived = {
        (file.table, file.device, hour): file.hours[hour] for file in manifest.files for hour in file.hours
    }
    wanted = {(p.table.name, p.device.id, hour): p.proof[hour] for p in parts for hour in p.proof}
    if (manifest.start, manifest.end, archived) == (start, end, wanted):
        return
    # Rows are added and never changed, so an hour with as many rows as archived has those rows or is damaged.
    more = [key for key in wanted if key not in archived or wanted[key].rows > archived[key].rows]
    same_window = (manifest.start, manifest.end) == (start, end)
    grown = same_window and all(key in more or wanted.get(key) == archived[key] for key in archived)
    raise OtherRowsError(
        f"{manifest.directory} holds an archive of other rows ({rfc3339(manifest.start)} to "
        f"{rfc3339(manifest.end)}, {manifest.rows} rows). "
        "It is not overwritten: choose another directory, or move it away",
        grown=grown,
    )


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise TelemetryError(f"{directory} cannot be made: {error.strerror}") from None


def _write(cursor: Cursor, directory: Path, format_: str, part: _Part) -> ArchiveFile:
    """Write one file, and take its times and checksum."""
    name = f"{part.table.name}/{part.device.id}/{floor(part.day.start, DAY):%Y-%m-%d}.{format_}"
    path = directory / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("wb") as stream:
            (_write_csv if format_ == "csv" else _write_parquet)(cursor, part, stream)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = path.stat().st_size
    except OSError as error:
        raise TelemetryError(f"{path} cannot be written: {error.strerror}") from None
    cursor.execute(
        sql.SQL(
            "SELECT min(time), max(time) FROM {} WHERE device_id = %s AND time >= %s AND time < %s"
        ).format(part.table.identifier),
        (part.device.id, part.day.start, part.day.end),
    )
    row = cursor.fetchone()
    assert row is not None
    first, last = row[0].astimezone(UTC), row[1].astimezone(UTC)
    rows = total(part.proof)
    return ArchiveFile(name, part.table.name, part.device.id, digest, size, rows, first, last, part.proof)


def _write_csv(cursor: Cursor, part: _Part, stream: BinaryIO) -> None:
    _copy(cursor, part, part.day, stream)


def _write_parquet(cursor: Cursor, part: _Part, stream: BinaryIO) -> None:
    """Write row groups of some thousand rows, so that the memory needed does not grow with the day."""
    from pyarrow import parquet

    with parquet.ParquetWriter(stream, schema(part.table.columns), compression="zstd") as writer:
        for piece in reversed(list(cut(part.day, part.device.cadence_s))):
            data = io.BytesIO()
            _copy(cursor, part, piece, data)
            data.seek(0)
            for batch in read_csv(data, part.table.columns):
                writer.write_batch(batch)


def _copy(cursor: Cursor, part: _Part, span: Slice, out: Any) -> None:
    query = sql.SQL(
        "COPY (SELECT {} FROM {} WHERE device_id = {} AND time >= {} AND time < {} ORDER BY time)"
        " TO STDOUT (FORMAT csv, HEADER)"
    ).format(
        part.table.column_list(),
        part.table.identifier,
        sql.Literal(part.device.id),
        sql.Literal(span.start),
        sql.Literal(span.end),
    )
    cursor.copy_expert(query, out)
