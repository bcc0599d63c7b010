"""Two sites with a battery and a meter each, and a day of values that are as they should be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

from archive_database import add_archive_tables
from jobs_database import create_job_tables
from postgres_cluster import PostgresCluster
from telemetry_database import add_device

from stationkeeper.database.connection import connect

#: The window that is looked at; the 24 hours before it are the usual ones.
END = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
START = END - timedelta(minutes=90)
SITES = ("WLCE", "HMCE")
# A battery that rests, but charges for one hour of the day and gives it back in another, with an error of its
# inverter and noise; its temperature follows the sun, its counter runs.
_BATTERY = """
INSERT INTO flux.mg_bess_readings (time, device_id, seq, heartbeat, power_kw, setpoint_kw, soe_percent,
  voltage_v, frequency_hz, temperature_c, status)
SELECT moment, %(id)s, n, n, told + 0.2 * random(), told, 50 + 25 * sin(n / 230.0),
       400 + 2 * random(), 50 + 0.02 * (random() - 0.5), 25 + 5 * sin(n / 230.0) + 0.2 * random(), 1
FROM (SELECT n, %(start)s::timestamptz + n * interval '1 minute' AS moment,
             CASE WHEN n BETWEEN 300 AND 359 OR n BETWEEN 1500 AND 1529 THEN -50.0
                  WHEN n BETWEEN 900 AND 959 THEN 50.0 ELSE 0.0 END AS told
      FROM generate_series(0, %(count)s - 1) AS n) AS s
"""
_METER = """
INSERT INTO flux.mg_meter_readings (time, device_id, seq, heartbeat, power_kw, voltage_v, frequency_hz,
  energy_import_kwh, energy_export_kwh)
SELECT b.time, %(id)s, seq, heartbeat, power_kw - 3 * random(), voltage_v, frequency_hz,
       1000 + seq * 0.05, 500
FROM flux.mg_bess_readings b WHERE device_id = %(battery)s
"""


class AnomalyWorld:
    """A database with the tables and rows; ``ids`` are the devices' by their names."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.ids: dict[str, str] = {}
        first = START - timedelta(hours=24)
        count = int((END - first).total_seconds() // 60)
        create_job_tables(settings).close()
        add_archive_tables(settings)
        with closing(connect(settings)) as connection:
            for site in SITES:
                for kind in ("bess", "meter"):
                    name = f"{site}-{kind.upper()}-01"
                    since = first - timedelta(days=1)
                    self.ids[name] = add_device(
                        connection, name, cadence_s=60, active_from=since, kind=kind, site=site
                    )
                battery, meter = self.ids[f"{site}-BESS-01"], self.ids[f"{site}-METER-01"]
                with connection, connection.cursor() as cursor:
                    cursor.execute("SELECT setseed(0.25)")
                    cursor.execute(_BATTERY, {"id": battery, "start": first, "count": count})
                    cursor.execute(_METER, {"id": meter, "battery": battery})

    def on(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser and commit; return its rows if it has any."""
        with closing(connect(self.settings)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def spoil(self, name: str, first_min: float, last_min: float, assignment: str) -> None:
        """Change the rows of a device, in minutes from the start of the window."""
        kind = "bess" if "BESS" in name else "meter"
        span = [START + timedelta(minutes=minute) for minute in (first_min, last_min)]
        self.on(
            f"UPDATE flux.mg_{kind}_readings SET {assignment}"
            " WHERE device_id = %s AND time >= %s AND time <= %s",
            self.ids[name],
            *span,
        )


def make_anomaly_world(cluster: PostgresCluster) -> Iterator[AnomalyWorld]:
    """Create the database."""
    yield AnomalyWorld(cluster.create_database())
