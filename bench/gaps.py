"""What a gap check costs, beside an index-only count of the same rows and the query of the guide.

    python bench/gaps.py                                    # 1, 3 and 10 million rows, a minute and a half
    python bench/gaps.py --rows 2000000 10000000 50000000   # 10 GB of disk, a quarter of an hour
    python bench/gaps.py --rows 50000000 --cadence-s 10     # the same in 29 days

200 devices with a row a minute, jitter, a hole in one of a hundred half hours, one silent device. Each size
has a database of its own in a private PostgreSQL. Times are the processor's in the database server, so other
work on the machine changes little. What is compared takes turns; the best of five, and of the ratio its
smallest and largest value in one turn.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
ROUNDS = 5
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
REGISTER = """
INSERT INTO flux.mg_device_registry (id, name, type, site, profile, cadence, active_from)
SELECT gen_random_uuid(), CASE n WHEN 1 THEN 'silent' ELSE 'd' || n END, 'meter', 'S' || n %% 20,
       'generic_meter', make_interval(secs => %s), %s
FROM generate_series(1, %s) n
"""
FLOOR = """
SELECT sum(n) FROM flux.mg_device_registry r, LATERAL (
    SELECT count(*) AS n FROM flux.mg_meter_readings x
    WHERE x.device_id = r.id AND x.time >= %s AND x.time < %s) c
"""
# A hole of a fifth of 30 cadences, in one of a hundred of them.
FILL = """
INSERT INTO flux.mg_meter_readings (device_id, time, seq, heartbeat, power_kw, voltage_v, frequency_hz)
SELECT r.id, %(start)s::timestamptz + (n + random() / 30) * make_interval(secs => %(cadence)s),
       n, n, 10, 230, 50
FROM generate_series(%(first)s, %(last)s) n, flux.mg_device_registry r
WHERE r.name <> 'silent' AND (n %% 30 > 5 OR hashtext(r.name || n / 30) %% 100 <> 0)
"""
# As a table is after months: the hours of the fleet lie beside each other, not those of one device.
LIVED_IN = """
CREATE TEMPORARY TABLE lived_in AS TABLE flux.mg_coverage_hourly;
TRUNCATE flux.mg_coverage_hourly;
INSERT INTO flux.mg_coverage_hourly SELECT * FROM lived_in ORDER BY hour, device_id;
DROP TABLE lived_in
"""


def fill(settings: Mapping[str, Any], rows: int, cadence_s: float, end: datetime) -> datetime:
    """Store about ``rows`` rows that end at ``end``, by two sessions; return their start."""
    each = rows // DEVICES
    start = end - timedelta(seconds=each * cadence_s)
    connection = connect(settings)
    with connection, connection.cursor() as cursor:
        cursor.execute(REGISTER, (cadence_s, start, DEVICES))
    connection.close()

    def part(first: int, last: int) -> None:
        connection = connect(settings)
        with connection, connection.cursor() as cursor:
            # Vacuum does not count a row as visible to all before its commit is on the disk.
            cursor.execute("SET LOCAL synchronous_commit = on")
            values = {"start": start, "cadence": cadence_s, "first": first, "last": last}
            cursor.execute(FILL, values)
        connection.close()

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(part, (0, each // 2), (each // 2 - 1, each - 1)))
    return start


def vacuum(settings: Mapping[str, Any], table: str) -> None:
    """Do what autovacuum does on a server that has it."""
    connection = connect(settings)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"VACUUM (ANALYZE) {table}")
    connection.close()


class Meter:
    """Processor seconds of one session's server process, and of this process beside it."""

    def __init__(self, connection: Connection) -> None:
        self._used = Path(f"/proc/{connection.info.backend_pid}/schedstat")

    def turns(self, rounds: int = ROUNDS, **works: Callable[[], Any]) -> dict[str, Used]:
        """Return what each piece of work has used in each round; they take turns."""
        used = {name: Used([], []) for name in works}
        for _ in range(rounds):
            for name, work in works.items():
                before, own = self._seconds(), time.process_time()
                work()
                used[name].server_s.append(self._seconds() - before)
                used[name].client_s.append(time.process_time() - own)
        return used

    def best(self, work: Callable[[], Any], rounds: int = ROUNDS) -> float:
        """Return the least that a piece of work has used in the server."""
        return min(self.turns(rounds, work=work)["work"].server_s)

    def _seconds(self) -> float:
        return int(self._used.read_text().split()[0]) / 1e9


class Used(NamedTuple):
    """Processor seconds of each round, in the server and in the client."""

    server_s: list[float]
    client_s: list[float]


def measure(settings: Mapping[str, Any], rows: int, cadence_s: float) -> None:
    """Fill a database and print what each way of looking costs."""
    end = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=5)
    start = fill(settings, rows, cadence_s, end)
    vacuum(settings, "flux.mg_meter_readings")
    connection = connect(settings)
    with connection, connection.cursor() as cursor:
        # One process each, and no plan that reads the heap: ratios of the same kind of work.
        cursor.execute("SET max_parallel_workers_per_gather = 0; SET jit = off")
    meter = Meter(connection)
    days = (end - start) / timedelta(days=1)
    print(f"\n{rows:,} rows: {DEVICES} devices x {days:.1f} days, a row every {cadence_s:g} s", flush=True)
    first = meter.best(lambda: refresh(connection, start, end, timeout_s=600), rounds=1)
    print(f"  hourly coverage, built from nothing: {first * 1000:.0f} ms")
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit = on")
        cursor.execute(LIVED_IN)
    vacuum(settings, "flux.mg_coverage_hourly")
    for length in sorted({days, min(days, 30), min(days, 1)}, reverse=True):
        compare(connection, meter, end - timedelta(days=length), end)
    newest(connection, meter, start, end)
    connection.close()


def compare(connection: Connection, meter: Meter, start: datetime, end: datetime) -> None:
    """Print what the ways to answer for a whole window cost."""

    def floor() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
            cursor.execute(FLOOR, (start, end))
        connection.rollback()

    used = meter.turns(
        floor=floor,
        sweep=lambda: find_gaps(connection, start, end, timeout_s=600),
        hours=lambda: find_gaps_by_hours(connection, start, end),
        refresh=lambda: refresh(connection, start, end),
    )
    by_hours = find_gaps_by_hours(connection, start, end)
    assert by_hours == find_gaps(connection, start, end, timeout_s=600), "not the answer of the sweep"
    rows = sum(one.present for one in by_hours.devices)
    print(f"  {(end - start) / timedelta(days=1):.1f} days: {rows:,} rows, {by_hours.gaps} gaps")
    show("floor: index-only count", used["floor"])
    show("full sweep", used["sweep"], used["floor"])
    show("from hourly coverage, the same answer", used["hours"], used["floor"])
    show("hourly coverage brought up to date", used["refresh"], used["floor"])


def newest(connection: Connection, meter: Meter, start: datetime, end: datetime) -> None:
    """Print what the newest part costs, by incremental look, and of one device by the guide's query."""
    hour, day = end - timedelta(hours=1), end - timedelta(days=1)
    show("newest hour, by rows", meter.turns(work=lambda: find_gaps(connection, hour, end))["work"])
    ledger.record(connection, find_gaps(connection, start, end, timeout_s=600), end)
    waiting = len(find_new_gaps(connection, lateness_s=3600, timeout_s=600).rechecked)
    new = meter.turns(work=lambda: find_new_gaps(connection, lateness_s=3600, timeout_s=600))["work"]
    show(f"what is new, and {waiting} gaps that wait", new)
    with connection.cursor() as cursor:
        cursor.execute("SELECT id::text FROM flux.mg_device_registry WHERE name <> 'silent' LIMIT 10")
        devices = [device for (device,) in cursor.fetchall()]
    connection.rollback()

    def guide() -> None:
        with connection.cursor() as cursor:
            for device in devices:
                cursor.execute(GUIDE, {"start": day, "end": end, "device": device})
                cursor.fetchall()
        connection.rollback()

    mine = meter.best(lambda: find_gaps(connection, day, end, sites=["S7"]))
    theirs = meter.best(guide, rounds=3)
    print(f"  newest day of 10 devices: {mine * 1000:.1f} ms, by the guide's query {theirs * 1000:.1f} ms")


def show(name: str, used: Used, floor: Used | None = None) -> None:
    """Print one line: the best, and against a floor the ratio of the bests and its spread."""
    text = f"    {name:<40}{min(used.server_s) * 1000:9.1f} ms"
    text += f" (client {min(used.client_s) * 1000:6.1f} ms)"
    if floor is not None:
        ratios = [mine / its for mine, its in zip(used.server_s, floor.server_s, strict=True)]
        ratio = min(used.server_s) / min(floor.server_s)
        text += f"  {ratio:6.3f} x the floor ({min(ratios):.3f} to {max(ratios):.3f})"
    print(text, flush=True)


def main() -> None:
    """Measure at each size."""
    from postgres_cluster import PostgresCluster
    from telemetry_database import create_tables

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--cadence-s", type=float, default=60.0)
    parsed = parser.parse_args()
    for rows in parsed.rows:
        cluster = PostgresCluster()
        try:
            cluster.start()
            settings = cluster.create_database()
            connection = create_tables(settings)
            with connection, connection.cursor() as cursor:
                for name in ("0007_gap_ledger", "0010_coverage_holes"):
                    for statement in split((ROOT / f"migrations/flux/{name}.sql").read_text()):
                        if not statement.text.startswith("GRANT"):
                            cursor.execute(statement.text)
            connection.close()
            measure(settings, rows, parsed.cadence_s)
        finally:
            cluster.remove()


if __name__ == "__main__":
    main()
