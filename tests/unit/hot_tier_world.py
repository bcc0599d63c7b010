"""A database with telemetry and a Redis beside it, and what both hold."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from redis_server import RedisServer
from telemetry_database import add_device, create_tables

from stationkeeper.hot_tier.connection import settings_of
from stationkeeper.hot_tier.keys import Names
from stationkeeper.hot_tier.refresh import Outcome, Request, refresh

BATTERY, METER = "WLCE-BESS-01", "WLCE-METER-01"
NAMES = Names("flux")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def write_settings(directory: Path, world: World) -> tuple[Path, Path]:
    """Write the files that the command reads its connections from."""
    paths = directory / "database.json", directory / "redis.json"
    for path, settings in zip(paths, (world.database, world.server.settings()), strict=True):
        path.write_text(json.dumps(settings))
        path.chmod(0o600)
    return paths


class World:
    """Two devices at one cadence; rows are put relative to now."""

    def __init__(self, database: dict[str, Any], server: RedisServer) -> None:
        self.database, self.server = database, server
        self.connection: Connection = create_tables(database)
        self.now = datetime.now(UTC)
        self.ids = {
            name: add_device(self.connection, name, cadence_s=5, active_from=LONG_AGO, kind=kind)
            for name, kind in ((BATTERY, "bess"), (METER, "meter"))
        }

    def execute(self, statement: str, *values: Any) -> None:
        """Run a statement and commit."""
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(statement, values)

    def rows(self, device: str, start_s: float, end_s: float, step_s: float = 60, value: float = 1) -> None:
        """Store rows from so many seconds ago until so many seconds ago."""
        kind = "bess" if device == BATTERY else "meter"
        extra = "soe_percent, status" if kind == "bess" else "energy_import_kwh, energy_export_kwh"
        self.execute(
            f"INSERT INTO flux.mg_{kind}_readings (device_id, time, seq, power_kw, voltage_v, {extra})"
            " SELECT %s, t, extract(epoch FROM t), %s + (extract(epoch FROM t)::bigint %% 1000) / 7.0,"
            " NULL, 55.5, 3"
            " FROM generate_series(%s::timestamptz, %s, make_interval(secs => %s)) t ON CONFLICT DO NOTHING",
            *(self.ids[device], value, self.ago(start_s), self.ago(end_s), step_s),
        )

    def ago(self, seconds: float) -> datetime:
        """Return the time so many seconds before this world began."""
        return self.now - timedelta(seconds=seconds)

    def refresh(self, *devices: str, force: bool = False, dry_run: bool = False) -> Outcome:
        """Refresh as the user of the inventory."""
        request = Request("flux", devices=devices, force=force)
        return refresh(self.connection, settings_of(self.server.settings()), request, dry_run=dry_run)

    def content(self) -> dict[str, Any]:
        """Return what a reader gets, without the figures and the stamp of the run."""
        client, found = self.server.admin, {}
        for key in sorted(client.scan_iter(count=1000)):
            if NAMES.pattern_of(key) not in ("refreshed", "metrics"):
                series = client.type(key) == "zset"
                found[key] = client.zrange(key, 0, -1, withscores=True) if series else client.hgetall(key)
        return found
