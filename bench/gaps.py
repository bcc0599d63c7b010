"""What a gap check costs, beside an index-only count of the same rows and the query of the guide.

    python bench/gaps.py                            # 1, 3 and 10 million rows, each in a private PostgreSQL
    python bench/gaps.py --rows 50000000            # 8 GB of disk

200 devices with a row a minute, jitter of two seconds, a hole here and there, one silent device. Times are
the processor's in the database server, so other work on the machine changes little; best of three.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stationkeeper.database.connection import connect
from stationkeeper.database.statements import split
from stationkeeper.telemetry import ledger
from stationkeeper.telemetry.coverage import find_gaps_by_hours, refresh
from stationkeeper.telemetry.gaps import find_gaps
from stationkeeper.telemetry.incremental import find_new_gaps

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "unit"))

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

DEVICES = 200
ROUNDS = 3
# The guide's query, for one device and one day; only the names of table and columns are Stationkeeper's.
GUIDE = """
WITH time_series AS (
  SELECT generate_series(%(start)s::timestamptz, %(end)s::timestamptz, '1 minute'::interval) AS expected_time)
SELECT ts.expected_time, r.time IS NULL AS is_missing
FROM time_series ts
LEFT JOIN flux.mg_meter_readings r
  ON date_trunc('minute', r.time) = ts.expected_time AND r.device_id = %(device)s
WHERE r.time IS NULL
ORDER BY ts.expected_time
"""
FILL = """
INSERT INTO flux.mg_meter_readings (device_id, time, seq, heartbeat, power_kw, voltage_v, frequency_hz)
SELECT r.id, %(start)s::timestamptz + n * interval '1 min' + random() * interval '2 s', n, n, 10, 230, 50
FROM flux.mg_device_registry r, generate_series(0, %(last)s) n
WHERE r.name <> 'silent' AND (n %% 30 > 5 OR hashtext(r.name || n / 30) %% 100 <> 0)
"""


def fill(connection: Connection, rows: int, end: datetime) -> datetime:
    """Store about ``rows`` rows that end at ``end``; return their start."""
    minutes = rows // DEVICES
    start = end - timedelta(minutes=minutes)
    with connection, connection.cursor() as cursor:
        # Vacuum does not count a row as visible to all before its commit is on the disk.
        cursor.execute("SET LOCAL synchronous_commit = on")
        cursor.execute(
            "INSERT INTO flux.mg_device_registry (id, name, type, site, profile, cadence, active_from)"
            " SELECT gen_random_uuid(), CASE n WHEN 1 THEN 'silent' ELSE 'd' || n END, 'meter',"
            " 'S' || n %% 20, 'generic_meter', '1 min', %s FROM generate_series(1, %s) n",
            (start, DEVICES),
        )
        cursor.execute(FILL, {"start": start, "last": minutes - 1})
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE) flux.mg_meter_readings")
    connection.autocommit = False
    return start


class Meter:
    """Processor seconds of one session's server process."""

    def __init__(self, connection: Connection) -> None:
        self._used = Path(f"/proc/{connection.info.backend_pid}/schedstat")

    def seconds(self) -> float:
        """Return what the process has used so far."""
        return int(self._used.read_text().split()[0]) / 1e9

    def best(self, work: Callable[[], Any], rounds: int = ROUNDS) -> float:
        """Return the least that a piece of work has used."""
        used = []
        for _ in range(rounds):
            before = self.seconds()
            work()
            used.append(self.seconds() - before)
        return min(used)


def measure(settings: dict[str, Any], rows: int) -> None:
    """Fill a database and print what each way of looking costs."""
    connection = connect(settings)
    end = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=5)
    start = fill(connection, rows, end)
    with connection.cursor() as cursor:
        # One process each, and no plan that reads the heap: ratios of the same kind of work.
        cursor.execute("SET max_parallel_workers_per_gather = 0; SET jit = off")
        cursor.execute("SELECT id::text FROM flux.mg_device_registry WHERE name = 'd7'")
        ((device,),) = cursor.fetchall()
    connection.commit()
    meter = Meter(connection)

    def floor(first: datetime) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
            cursor.execute(
                "SELECT sum(n) FROM flux.mg_device_registry r, LATERAL (SELECT count(*) AS n"
                " FROM flux.mg_meter_readings x WHERE x.device_id = r.id AND x.time >= %s AND x.time < %s) c",
                (first, end),
            )
        connection.rollback()

    def guide(first: datetime) -> None:
        with connection.cursor() as cursor:
            cursor.execute(GUIDE, {"start": first, "end": end, "device": device})
            cursor.fetchall()
        connection.rollback()

    day, hour = max(start, end - timedelta(days=1)), end - timedelta(hours=1)
    print(f"\n{rows:,} rows, {DEVICES} devices x {(end - start) / timedelta(days=1):.1f} days")
    whole = meter.best(lambda: floor(start))
    show("floor: index-only count of all", whole, whole)
    sweep = meter.best(lambda: find_gaps(connection, start, end, timeout_s=600))
    show("full sweep", sweep, whole)
    first = meter.best(lambda: refresh(connection, start, end), rounds=1)
    show("hourly coverage, built from nothing", first, whole)
    again = meter.best(lambda: refresh(connection, start, end))
    show("hourly coverage, brought up to date", again, whole)
    hours = meter.best(lambda: find_gaps_by_hours(connection, start, end, timeout_s=600))
    show("all, answered from hourly coverage", hours, whole)
    same = find_gaps_by_hours(connection, start, end) == find_gaps(connection, start, end, timeout_s=600)
    print(f"  the same answer as the full sweep: {same}")

    newest_day = meter.best(lambda: floor(day))
    show("floor of the newest day", newest_day, newest_day)
    show("newest day, by rows", meter.best(lambda: find_gaps(connection, day, end)), newest_day)
    show("newest hour, by rows", meter.best(lambda: find_gaps(connection, hour, end)), newest_day)
    ledger.record(connection, find_gaps(connection, start, end, timeout_s=600), end)
    new = meter.best(lambda: find_new_gaps(connection, lateness_s=3600, timeout_s=600))
    waiting = len(find_new_gaps(connection, lateness_s=3600).rechecked)
    show(f"what is new, and {waiting} gaps that wait", new, newest_day)

    mine = meter.best(lambda: [find_gaps(connection, day, end, sites=["S7"]) for _ in range(5)]) / 50
    theirs = meter.best(lambda: [guide(day) for _ in range(20)]) / 20
    print(f"  newest day of one device: {mine * 1000:.1f} ms, by the guide's query {theirs * 1000:.1f} ms")
    connection.close()


def show(name: str, seconds: float, floor: float) -> None:
    """Print one line."""
    ratio = f"{seconds / floor:6.2f} x its floor" if floor else ""
    print(f"  {name:<42}{seconds * 1000:9.0f} ms {ratio}", flush=True)


def main() -> None:
    """Measure at each size."""
    from postgres_cluster import PostgresCluster
    from telemetry_database import create_tables

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parsed = parser.parse_args()
    cluster = PostgresCluster()
    try:
        cluster.start()
        for rows in parsed.rows:
            settings = cluster.create_database()
            connection = create_tables(settings)
            with connection, connection.cursor() as cursor:
                for statement in split((ROOT / "migrations/flux/0007_gap_ledger.sql").read_text()):
                    if not statement.text.startswith("GRANT"):
                        cursor.execute(statement.text)
            connection.close()
            measure(settings, rows)
    finally:
        cluster.remove()


if __name__ == "__main__":
    main()
