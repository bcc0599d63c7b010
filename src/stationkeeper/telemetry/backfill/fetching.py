"""Fetch the next slice while the one before it is being stored."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from stationkeeper.telemetry.backfill.batch import Fetched
from stationkeeper.telemetry.backfill.entries import Job
from stationkeeper.telemetry.backfill.slices import Slice
from stationkeeper.telemetry.backfill.sources import Source
from stationkeeper.telemetry.backfill.tables import Table
from stationkeeper.telemetry.source import TelemetryError


class SourceFailedError(Exception):
    """A source cannot answer; the message says why, for an operator."""


def fetch_ahead(
    source: Source, tables: Mapping[str, Table], work: Sequence[tuple[Job, Slice]]
) -> Iterator[tuple[Job, Slice, Fetched]]:
    """Yield what a source has for each slice. Two slices at most are in memory. Raises SourceFailedError."""
    waiting: list[tuple[Job, Slice, Future[Fetched]]] = []
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            for job, slice_ in work:
                waiting.append(
                    (job, slice_, pool.submit(_fetch, source, tables[job.device.type], job, slice_))
                )
                if len(waiting) == 2:
                    yield _ready(source, waiting.pop(0))
            for one in waiting:
                yield _ready(source, one)
        finally:
            for _, _, future in waiting:
                future.cancel()


def _ready(source: Source, one: tuple[Job, Slice, Future[Fetched]]) -> tuple[Job, Slice, Fetched]:
    job, slice_, future = one
    try:
        return job, slice_, future.result()
    except TelemetryError as error:
        raise SourceFailedError(f"{source.name}: {error}") from error


def _fetch(source: Source, table: Table, job: Job, slice_: Slice) -> Fetched:
    span = slice_.hours if source.whole_hours else slice_
    data = io.BytesIO()
    proof = source.fetch(job.device, table, span.start, span.end, data)
    return Fetched(source.name, span, data, proof)
