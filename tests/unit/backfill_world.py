"""A target with a ledger, a source with the same tables, and rows that one of them lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ledger_database import create_ledger_tables
from postgres_cluster import PostgresCluster
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import add_device, create_tables

from stationkeeper.database.connection import connect
from stationkeeper.telemetry.backfill.engine import Options, Outcome, Recovery
from stationkeeper.telemetry.backfill.pacing import Throttle
from stationkeeper.telemetry.backfill.postgres import PostgresSource
from stationkeeper.telemetry.backfill.sources import Source
from stationkeeper.telemetry.source import connected

START = datetime(2026, 1, 5, tzinfo=UTC)
_ROWS = {
    "bess": """INSERT INTO flux.mg_bess_readings
        SELECT moment, %(device)s, '00000000-0000-4000-8000-000000000001', n, n * 3, sin(n) * 50,
               round(n / 7.0),
               n %% 100 + 0.1, 230 + random(), CASE WHEN n %% 11 > 0 THEN 50 + 1e-9 * n END, 'NaN',
               n %% 5, n << 33, CASE n %% 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'synchronised, "µ"' END""",
    "meter": """INSERT INTO flux.mg_meter_readings
        SELECT moment, %(device)s, NULL, n, n, sin(n) * 50, 230 + random(), 50, n * 0.01, n * 0.02,
               'synchronised'""",
}
_SERIES = """
 FROM (SELECT n, %(start)s::timestamptz + n * make_interval(secs => %(cadence)s)
              + (n %% 7) * interval '11 milliseconds' AS moment
       FROM generate_series(0, %(count)s - 1) AS n) AS s"""


@dataclass
class World:
    """Two databases. ``target`` and ``source`` are their settings."""

    target: dict[str, Any]
    source: dict[str, Any]
    connections: list[Connection] = field(default_factory=list)

    def on(self, settings: dict[str, Any], query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement and commit; return its rows if it has any."""
        with closing(connect(settings)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def contents(self) -> dict[str, Any]:
        """Return count and checksum of every table of the target."""
        names = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'flux'"
        tables = self.on(self.target, names)
        return {
            table: self.on(
                self.target, f"SELECT count(*), bit_xor(hashtextextended(t::text, 0)) FROM {table} AS t"
            )
            for (table,) in tables
        }

    def device(self, name: str, *, kind: str = "bess", cadence_s: float = 1, site: str = "WLCE") -> str:
        """Register a device in both databases."""
        for settings in (self.target, self.source):
            with closing(connect(settings)) as connection:
                values = {"cadence_s": cadence_s, "active_from": START - timedelta(days=30)}
                device = add_device(connection, name, kind=kind, site=site, **values)  # type: ignore[arg-type]
        return device

    def rows(
        self, settings: dict[str, Any], device: str, *, count: int, kind: str = "bess", cadence_s: float = 1
    ) -> None:
        """Store rows from `START` on, with jitter, nulls and odd values."""
        values = {"device": device, "start": START, "cadence": cadence_s, "count": count}
        with closing(connect(settings)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SELECT setseed(0.5)")
            cursor.execute(_ROWS[kind] + _SERIES, values)

    def gap(self, device: str, start: datetime, end: datetime, expected: int = 1) -> int:
        """Put an open entry into the ledger."""
        return int(
            self.on(
                self.target,
                "INSERT INTO flux.mg_gap_ledger (device_id, span, expected)"
                " VALUES (%s, tstzrange(%s, %s, '()'), %s) RETURNING id",
                device,
                start,
                end,
                expected,
            )[0][0]
        )

    def checksum(self, settings: dict[str, Any], kind: str = "bess") -> tuple[Any, ...]:
        """Return count and checksum of a whole table."""
        query = f"SELECT count(*), bit_xor(hashtextextended(r::text, 0)) FROM flux.mg_{kind}_readings AS r"
        return self.on(settings, query)[0]

    def states(self) -> list[str]:
        """Return the states of all entries, by their number."""
        return [row[0] for row in self.on(self.target, "SELECT state FROM flux.mg_gap_ledger ORDER BY id")]

    def recover(
        self,
        *sources: Source,
        user: str | None = "flux_operator",
        owner: str = "test",
        throttle: Throttle | None = None,
        **options: Any,
    ) -> Outcome:
        """Run a recovery, from the source database unless told otherwise."""
        settings = self.target | ({"user": user} if user else {})
        with connected(settings) as connection:
            worker = Recovery(
                connection,
                sources or [PostgresSource("second", self.source | {"user": "flux_reader"})],
                owner=owner,
                options=Options(**options),
                throttle=throttle,
            )
            return worker.run()


def make_world(cluster: PostgresCluster) -> Iterator[World]:
    """Create both databases."""
    target, source = cluster.create_database(), cluster.create_database()
    create_ledger_tables(target).close()
    with closing(create_tables(source)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("GRANT USAGE ON SCHEMA flux TO flux_reader")
        cursor.execute("GRANT SELECT ON ALL TABLES IN SCHEMA flux TO flux_reader")
    yield World(target, source)
