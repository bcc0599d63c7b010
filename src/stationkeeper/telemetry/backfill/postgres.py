"""A second PostgreSQL as a source: its rows pass through in binary form and are never unpacked here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from stationkeeper.telemetry.backfill.binary import Writable
from stationkeeper.telemetry.backfill.proof import Hour, prove
from stationkeeper.telemetry.backfill.tables import SLICE_PLANS, Table, check_fit, read_tables
from stationkeeper.telemetry.source import Device, reading, snapshot

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

_SPAN = " WHERE device_id = %(device)s AND time >= %(start)s AND time < %(end)s"


class PostgresSource:
    """Rows of another database with the same tables; its connection is opened again after it broke."""

    whole_hours = False

    def __init__(
        self, name: str, settings: Mapping[str, Any], *, schema: str = "flux", timeout_s: float = 300.0
    ) -> None:
        self.name = name
        self._settings = settings
        self._schema = schema
        self._timeout_s = timeout_s
        self._tables: dict[str, Table] = {}
        self._open = ExitStack()
        self._connection: Connection | None = None

    def check(self, tables: Mapping[str, Table]) -> None:
        # A connection from an earlier run may be broken by now.
        self.close()
        self._connection = None
        with self._snapshot() as cursor:
            self._tables = read_tables(cursor, self._schema)
        for kind, table in tables.items():
            offered = self._tables[kind]
            check_fit(f"{self.name}: {offered.schema}.{offered.name}", offered.columns, table)

    def count(self, device: Device, start: datetime, end: datetime) -> int:
        from psycopg2 import sql

        query = sql.SQL("SELECT count(*) FROM {rows}{span}").format(
            rows=self._tables[device.type].identifier, span=sql.SQL(_SPAN)
        )
        with self._snapshot() as cursor:
            cursor.execute(query, {"device": device.id, "start": start, "end": end})
            row = cursor.fetchone()
            assert row is not None
            return int(row[0])

    def fetch(
        self, device: Device, table: Table, start: datetime, end: datetime, out: Writable
    ) -> dict[datetime, Hour]:
        from psycopg2 import sql

        own = self._tables[device.type]
        rows = sql.SQL("SELECT {columns} FROM {rows}{span} ORDER BY time").format(
            columns=table.column_list(), rows=own.identifier, span=sql.SQL(_SPAN)
        )
        with self._snapshot() as cursor:
            cursor.execute(SLICE_PLANS)
            query = cursor.mogrify(rows, {"device": device.id, "start": start, "end": end}).decode()
            cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", out)
            return prove(cursor, own, device.id, start, end)

    def close(self) -> None:
        """Close the connection."""
        self._open.close()

    @contextmanager
    def _snapshot(self) -> Iterator[Cursor]:
        if self._connection is None or self._connection.closed:
            self._open.close()
            self._connection = self._open.enter_context(reading(self._settings))
        with snapshot(self._connection, timeout_s=self._timeout_s) as cursor:
            yield cursor
