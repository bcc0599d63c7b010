"""Google BigQuery as a source: a cold store with the same tables in a dataset.

It has no primary key, so equal rows that were loaded twice count once, and different rows with the same key
are refused. It cannot compute PostgreSQL's hash; the rows are proven from the temporary table on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from stationkeeper.telemetry.backfill.binary import Writable, write_rows
from stationkeeper.telemetry.backfill.tables import Table, check_fit
from stationkeeper.telemetry.source import READINGS, Device, TelemetryError, one_line

_DATASET = re.compile(r"[A-Za-z0-9_:.-]+\.[A-Za-z0-9_]+")
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What a column of ours may be there; text holds identifiers too, and whole numbers have one size.
_FITS = {
    "timestamp with time zone": {"TIMESTAMP"},
    "uuid": {"STRING"},
    "bigint": {"INTEGER", "INT64"},
    "integer": {"INTEGER", "INT64"},
    "double precision": {"FLOAT", "FLOAT64"},
    "text": {"STRING"},
}
_PAGE = 10_000


class BigQuerySource:
    """Rows of the tables in ``dataset``, written ``project.dataset``, with the credentials of the machine."""

    whole_hours = False

    def __init__(self, name: str, dataset: str, *, client: Any = None) -> None:
        if not _DATASET.fullmatch(dataset):
            raise TelemetryError(f"BigQuery dataset {dataset!r}: write project.dataset")
        self.name = name
        self._dataset = dataset
        self._bigquery = _library()
        self._client = client or self._bigquery.Client(project=dataset.rpartition(".")[0])

    def close(self) -> None:
        """Close the client's connections."""
        self._client.close()

    def check(self, tables: Mapping[str, Table]) -> None:
        """Compare the columns of every table; a DATETIME has no zone and is refused."""
        for table in tables.values():
            where = f"{self.name}: {self._dataset}.{table.name}"
            found = {
                field.name: field.field_type
                for field in self._ask(
                    lambda name=table.name: self._client.get_table(f"{self._dataset}.{name}")
                ).schema
            }
            offered = {}
            for column, type_ in found.items():
                wanted = table.columns.get(column, "")
                offered[column] = wanted if type_ in _FITS.get(wanted, ()) else _THEIR_NAMES.get(type_, type_)
            check_fit(where, offered, table)

    def count(self, device: Device, start: datetime, end: datetime) -> int:
        """Return the number of moments that have a row."""
        rows = self._query(
            "SELECT COUNT(DISTINCT time) AS rows_there", READINGS[device.type], device, start, end
        )
        return int(next(iter(rows))[0])

    def fetch(self, device: Device, table: Table, start: datetime, end: datetime, out: Writable) -> None:
        """Write the rows, each once. There is no proof of the source's own."""
        for column in table.columns:
            if not _COLUMN.fullmatch(column):
                raise TelemetryError(f"{self.name}: BigQuery cannot have a column {column}")
        columns = ", ".join(f"`{column}`" for column in table.columns)
        rows = self._query(f"SELECT DISTINCT {columns}", table.name, device, start, end, " ORDER BY time")
        write_rows(out, table.columns, (tuple(row.values()) for row in rows))

    def _query(  # noqa: PLR0917 (a query in its parts)
        self, select: str, table: str, device: Device, start: datetime, end: datetime, order: str = ""
    ) -> Any:
        parameter = self._bigquery.ScalarQueryParameter
        config = self._bigquery.QueryJobConfig(
            query_parameters=[
                parameter("device", "STRING", device.id),
                parameter("start", "TIMESTAMP", start),
                parameter("end", "TIMESTAMP", end),
            ]
        )
        # The names were checked; values go as parameters.
        query = (
            f"{select} FROM `{self._dataset}.{table}`"
            f" WHERE device_id = @device AND time >= @start AND time < @end{order}"
        )
        return self._ask(lambda: self._client.query(query, job_config=config).result(page_size=_PAGE))

    def _ask(self, question: Any) -> Any:
        try:
            return question()
        # The client raises its own classes and those of the transport below it; all mean the same here.
        except Exception as error:
            raise TelemetryError(f"BigQuery does not answer: {one_line(error)}") from None


_THEIR_NAMES = {"DATETIME": "timestamp without time zone"}


def _library() -> Any:
    try:
        from google.cloud import bigquery
    except ImportError:
        raise TelemetryError(
            "BigQuery needs the package google-cloud-bigquery on the control node: "
            "pip install 'stationkeeper[bigquery]'"
        ) from None
    return bigquery
