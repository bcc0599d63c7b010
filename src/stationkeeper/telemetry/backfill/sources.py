"""What a back-fill asks of every place that rows can come from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from stationkeeper.telemetry.backfill.binary import Writable
from stationkeeper.telemetry.backfill.proof import Proof
from stationkeeper.telemetry.backfill.tables import Table
from stationkeeper.telemetry.source import Device


class Source(Protocol):
    """Rows that may be missing elsewhere. Every method raises TelemetryError when the source cannot answer.

    Spans include their start and exclude their end.
    """

    @property
    def name(self) -> str:
        """What provenance and reports call it."""

    @property
    def whole_hours(self) -> bool:
        """Whether proofs are known for whole hours only, because they were made when the rows were archived.

        Rows are then fetched in whole hours, proven, and cut to the span by the target.
        """

    def close(self) -> None:
        """End connections, if there are any."""

    def check(self, tables: Mapping[str, Table]) -> None:
        """Refuse a source whose tables (by type of device) do not fit those of the target."""

    def count(self, device: Device, start: datetime, end: datetime) -> int:
        """Return the number of rows in [start, end)."""

    def fetch(
        self, device: Device, table: Table, start: datetime, end: datetime, out: Writable
    ) -> Proof | None:
        """Write the rows of [start, end) as PostgreSQL's binary COPY; return their proof by hour.

        The columns are those of ``table``, the target's, in its order. Proof and rows come from one state of
        the source. None when the source cannot compute checksums.
        """
