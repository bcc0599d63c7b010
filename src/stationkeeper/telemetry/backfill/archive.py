"""An archive (CSV or Parquet, with its manifest) as a source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from stationkeeper.telemetry.backfill.binary import MICROSECONDS, Writable, write_rows
from stationkeeper.telemetry.backfill.files import (
    read_csv,
    read_parquet,
    require_arrow,
    rows_between,
    select,
)
from stationkeeper.telemetry.backfill.manifest import NAME, ArchiveFile, Manifest, read_manifest, verify_file
from stationkeeper.telemetry.backfill.proof import Hour
from stationkeeper.telemetry.backfill.slices import HOUR, Slice, floor
from stationkeeper.telemetry.backfill.tables import Table, check_fit
from stationkeeper.telemetry.source import READINGS, Device, TelemetryError


class ArchiveSource:
    """Rows of one archive, or of all archives in a directory.

    An archive may be older than a column of the target that can be null; its rows have none there.
    Where two archives hold the same hour of a device, the one with more rows counts; the newer one of equals.
    """

    whole_hours = True

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self._directory = directory
        self._hours: dict[str, dict[datetime, tuple[Manifest, ArchiveFile]]] = {}
        self._verified: set[Path] = set()

    def close(self) -> None:
        """Nothing is held open."""

    def check(self, tables: Mapping[str, Table]) -> None:
        """Verify every manifest, and that its columns fit those of the target."""
        require_arrow()
        by_name = {table.name: table for table in tables.values()}
        found = sorted(self._directory.glob(NAME)) or sorted(self._directory.glob(f"*/{NAME}"))
        if not found:
            raise TelemetryError(f"{self._directory} holds no archive: there is no {NAME} in it or one below")
        self._hours = {}
        for path in found:
            manifest = read_manifest(path.parent)
            for name, columns in manifest.tables.items():
                if name not in by_name:
                    raise TelemetryError(f"{path} has a table {name}, which is none of readings")
                check_fit(f"{path}: {name}", columns, by_name[name], lacking=by_name[name].optional)
            for file in manifest.files:
                self._index(manifest, file)

    def count(self, device: Device, start: datetime, end: datetime) -> int:
        """Return the number of rows; files are read only for the hours that the span cuts."""
        rows = 0
        for hour, (_, file) in self._between(device, start, end).items():
            if start <= hour and hour + HOUR <= end:
                rows += file.hours[hour].rows
            else:
                span = Slice(max(start, hour), min(end, hour + HOUR))
                rows += sum(1 for _ in self._rows(device, span.start, span.end, ["time"]))
        return rows

    def fetch(
        self, device: Device, table: Table, start: datetime, end: datetime, out: Writable
    ) -> dict[datetime, Hour] | None:
        """Write the rows; the proof is the one that was made when they were archived.

        None when that was made without a column that the target has: then the checksums of the files count.
        """
        columns = {
            name: MICROSECONDS if type_ == "timestamp with time zone" else type_
            for name, type_ in table.columns.items()
        }
        write_rows(out, columns, self._rows(device, start, end, list(table.columns)))
        hours = self._between(device, start, end)
        if any(
            manifest.tables[file.table].keys() != table.columns.keys() for manifest, file in hours.values()
        ):
            return None
        return {hour: file.hours[hour] for hour, (_, file) in hours.items()}

    def _index(self, manifest: Manifest, file: ArchiveFile) -> None:
        hours = self._hours.setdefault(file.device, {})
        for hour, proof in file.hours.items():
            known = hours.get(hour)
            if known is None or known[1].hours[hour].rows <= proof.rows:
                hours[hour] = (manifest, file)

    def _between(
        self, device: Device, start: datetime, end: datetime
    ) -> dict[datetime, tuple[Manifest, ArchiveFile]]:
        hours = self._hours.get(device.id, {})
        return {
            hour: hours[hour]
            for hour in sorted(hours)
            if floor(start, HOUR) <= hour < end and hours[hour][1].table == READINGS[device.type]
        }

    def _rows(
        self, device: Device, start: datetime, end: datetime, order: Sequence[str]
    ) -> Iterator[tuple[Any, ...]]:
        """Yield rows in order of time, each hour from the file that counts for it."""
        hours = list(self._between(device, start, end).items())
        begin = 0
        for number, (hour, (manifest, file)) in enumerate(hours):
            following = hours[number + 1] if number + 1 < len(hours) else None
            if following and following[1][1] is file and following[0] == hour + HOUR:
                continue
            first = hours[begin][0]
            begin = number + 1
            yield from self._of_file(manifest, file, Slice(max(start, first), min(end, hour + HOUR)), order)

    def _of_file(
        self, manifest: Manifest, file: ArchiveFile, span: Slice, order: Sequence[str]
    ) -> Iterator[tuple[Any, ...]]:
        path = manifest.directory / file.path
        if path not in self._verified:
            verify_file(manifest, file)
            self._verified.add(path)
        columns = manifest.tables[file.table]
        batches = (
            read_csv(path, columns)
            if manifest.format == "csv"
            else read_parquet(path, columns, span.start, span.end)
        )
        for batch in batches:
            yield from rows_between(select(batch, order), span.start, span.end)
