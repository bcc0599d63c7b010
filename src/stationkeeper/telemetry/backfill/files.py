"""The files of an archive, CSV or Parquet, by Arrow: typed columns, and times never without a zone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from stationkeeper.telemetry.source import TelemetryError

if TYPE_CHECKING:
    import pyarrow

# Rows of a row group and of a batch: what is in memory at once.
ROWS = 25_000
_CSV_BLOCK = 4 << 20


def require_arrow() -> None:
    """Raise TelemetryError where the library is not installed."""
    try:
        import pyarrow  # noqa: F401 (only whether it is there)
    except ImportError:
        raise TelemetryError("archives need the package pyarrow on the control node: make setup") from None


def schema(columns: Mapping[str, str]) -> pyarrow.Schema:
    """Return Arrow's types for columns of PostgreSQL's types."""
    import pyarrow as pa

    types = {
        "timestamp with time zone": pa.timestamp("us", tz="UTC"),
        "uuid": pa.string(),
        "bigint": pa.int64(),
        "integer": pa.int32(),
        "double precision": pa.float64(),
        "text": pa.string(),
    }
    return pa.schema([(name, types[type_]) for name, type_ in columns.items()])


def read_csv(stream: BinaryIO | Path, columns: Mapping[str, str]) -> Iterator[pyarrow.RecordBatch]:
    """Yield the rows of a CSV file as PostgreSQL's COPY writes it: an unquoted empty value is null.

    Raises TelemetryError for other columns, for a value of another type, and for a time without an offset.
    """
    import pyarrow as pa
    from pyarrow import csv

    options = csv.ConvertOptions(
        column_types=schema(columns),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    try:
        with csv.open_csv(
            stream, read_options=csv.ReadOptions(block_size=_CSV_BLOCK), convert_options=options
        ) as reader:
            _check_names(reader.schema, columns, stream)
            yield from reader
    except pa.ArrowException as error:
        raise TelemetryError(f"{_name(stream)}: {_line(error)}") from None


def read_parquet(
    path: Path, columns: Mapping[str, str], start: datetime, end: datetime
) -> Iterator[pyarrow.RecordBatch]:
    """Yield the row groups of a Parquet file that may have rows of [start, end).

    Raises TelemetryError for other columns or types, times without a zone among them.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_names(file.schema_arrow, columns, path)
            for field in schema(columns):
                found = file.schema_arrow.field(field.name).type
                if found != field.type:
                    raise TelemetryError(f"{path}: column {field.name} is of type {found}, not {field.type}")
            place = file.schema_arrow.names.index("time")
            for number in range(file.num_row_groups):
                statistics = file.metadata.row_group(number).column(place).statistics
                known = statistics is not None and statistics.has_min_max
                if known and (statistics.max < start or statistics.min >= end):
                    continue
                yield from file.read_row_group(number, columns=list(columns)).to_batches()
    except pa.ArrowException as error:
        raise TelemetryError(f"{path}: {_line(error)}") from None


def select(batch: pyarrow.RecordBatch, order: Sequence[str]) -> pyarrow.RecordBatch:
    """Return the columns of ``order``; what the batch does not have is null."""
    import pyarrow as pa

    there = set(batch.schema.names)
    return pa.RecordBatch.from_arrays(
        [batch.column(name) if name in there else pa.nulls(batch.num_rows) for name in order], list(order)
    )


def rows_between(batch: pyarrow.RecordBatch, start: datetime, end: datetime) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of [start, end), times as microseconds since 1970 (UTC)."""
    import pyarrow as pa
    from pyarrow import compute

    kind = pa.timestamp("us", tz="UTC")
    time = batch.column("time")
    inside = compute.and_(
        compute.greater_equal(time, pa.scalar(start, kind)), compute.less(time, pa.scalar(end, kind))
    )
    kept = batch.filter(inside)
    values = [
        column.cast(pa.int64()).to_pylist() if field.type == kind else column.to_pylist()
        for field, column in zip(kept.schema, kept.columns, strict=True)
    ]
    yield from zip(*values, strict=True)


def _check_names(found: pyarrow.Schema, columns: Mapping[str, str], where: Any) -> None:
    if found.names != list(columns):
        raise TelemetryError(
            f"{_name(where)} has the columns {', '.join(found.names)} instead of {', '.join(columns)}"
        )


def _name(where: Any) -> str:
    return str(where) if isinstance(where, Path) else "the rows"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
