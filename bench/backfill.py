"""What a recovery costs, beside the fastest way to move the same rows without any check.

    python bench/backfill.py                 # a million rows, in a private PostgreSQL
    python bench/backfill.py --rows 5000000  # 5 GB of disk

The floor is `COPY (…) TO STDOUT | COPY … FROM STDIN` in text between the same two databases, by two psql. The
recovery adds the ledger, batches of a day or 50,000 rows, and the proof of every hour on both sides. Floor
and recovery take turns. Prints rows a second, processor seconds of all processes (which other work on the
machine changes little), ratios with the smallest and the largest of one round, and the most memory that the
recovery's process had.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/unit"))

from ledger_database import create_ledger_tables  # noqa: E402 (found by the path above)
from postgres_cluster import PostgresCluster  # noqa: E402 (likewise)
from telemetry_database import add_device, create_tables  # noqa: E402 (likewise)

from stationkeeper.database.connection import connect  # noqa: E402 (stands after them)

START = datetime(2026, 1, 5, tzinfo=UTC)
DEVICES = 20
TARGETS = {"holes": 0.9, "conflicts": 0.7}
_ROWS = """
INSERT INTO flux.mg_bess_readings
SELECT %(start)s::timestamptz + n * interval '1 second', %(device)s, %(device)s, n, n, random() * 100 - 50,
       random() * 100, random() * 100, 230 + random(), 50 + random() / 100, 20 + random() * 5, 3, 0,
       'synchronised'
FROM generate_series(0, %(count)s - 1) AS n
"""
_WORKER = """
import json, resource, sys
from stationkeeper.telemetry.backfill.engine import Options
from stationkeeper.telemetry.backfill.postgres import PostgresSource
from stationkeeper.telemetry.backfill.workers import recover
target, source, workers = json.loads(sys.stdin.read())
outcome = recover(target, lambda: [PostgresSource("second", source)], Options(), workers=workers)
print(json.dumps({"new": outcome.rows_new, "conflicts": outcome.conflicts, "states": outcome.entries,
                  "kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""


@dataclass(frozen=True)
class Cost:
    """Wall-clock time, and processor time of all processes."""

    wall_s: float
    processor_s: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parsed = parser.parse_args()
    cluster = PostgresCluster()
    try:
        # As PostgreSQL is installed: what was just stored is proven from memory.
        cluster.start(shared_buffers="128MB")
        _measure(cluster, parsed.rows // DEVICES, parsed.rounds, parsed.workers)
    finally:
        cluster.remove()


def _measure(cluster: PostgresCluster, each: int, rounds: int, workers: int) -> None:
    target, source = cluster.create_database(), cluster.create_database()
    create_ledger_tables(target).close()
    devices = []
    with closing(create_tables(source)) as there, closing(connect(target)) as here:
        for number in range(DEVICES):
            device = add_device(there, f"B{number}", cadence_s=1, active_from=START)
            devices.append(add_device(here, f"B{number}", cadence_s=1, active_from=START))
            with there, there.cursor() as cursor:
                cursor.execute(_ROWS, {"start": START, "device": device, "count": each})
        there.autocommit = True
        there.cursor().execute("VACUUM ANALYZE flux.mg_bess_readings")
    rows = each * DEVICES
    taken: dict[str, list[Cost]] = {"floor": [], "holes": [], "conflicts": []}
    memory = 0
    for _ in range(rounds):
        _empty(target)
        with _costs(cluster, taken["floor"]):
            _floor(cluster, source, target)
        for case in ("holes", "conflicts"):
            _empty(target)
            present = _some_that_differ(source, target) if case == "conflicts" else 0
            _ledger(target, devices, each)
            with _costs(cluster, taken[case]):
                outcome = _recover(target, source, workers)
            assert outcome["new"] == rows - present, outcome
            assert outcome["conflicts"] == present, outcome
            assert outcome["states"] == {"recovered": DEVICES}, outcome
            memory = max(memory, outcome["kib"])
    print(f"{rows} rows of {DEVICES} devices, median of {rounds} rounds")
    floor = _median(taken["floor"])
    ratios = {
        case: [
            (floor_.wall_s / cost.wall_s, floor_.processor_s / cost.processor_s)
            for floor_, cost in zip(taken["floor"], taken[case], strict=True)
        ]
        for case in TARGETS
    }
    for case, text in (
        ("floor", "floor, text COPY from psql to psql"),
        ("holes", "recovery into true holes"),
        ("conflicts", "recovery, 1 % there with other values"),
    ):
        cost = _median(taken[case])
        line = f"{text}: {cost.wall_s:.2f} s, {rows / cost.wall_s:,.0f} rows/s, "
        line += f"{cost.processor_s:.2f} s of processor"
        if case in TARGETS:
            by_wall, by_processor = zip(*ratios[case], strict=True)
            line += (
                f"; of the floor's speed {floor.wall_s / cost.wall_s:.2f} "
                f"({min(by_wall):.2f} to {max(by_wall):.2f}), by processor time "
                f"{floor.processor_s / cost.processor_s:.2f} ({min(by_processor):.2f} to "
                f"{max(by_processor):.2f}; target {TARGETS[case]})"
            )
        print(line)
    print(f"largest memory of the recovery: {memory / 1024:.0f} MiB")


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.wall_s for cost in costs),
        statistics.median(cost.processor_s for cost in costs),
    )


@contextmanager
def _costs(cluster: PostgresCluster, into: list[Cost]) -> Iterator[None]:
    """Measure a piece of work in which all sessions begin and end."""
    before, began = _processor_s(cluster), time.monotonic()
    yield
    wall_s = time.monotonic() - began
    # A session's process ends a moment after its client.
    time.sleep(0.5)
    into.append(Cost(wall_s, _processor_s(cluster) - before))


def _processor_s(cluster: PostgresCluster) -> float:
    """Return the processor time of all ended children: of this process, and of the server."""
    server = (cluster.data / "postmaster.pid").read_text().split()[0]
    fields = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()
    ours = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = int(fields[13]) + int(fields[14])
    return ticks / os.sysconf("SC_CLK_TCK") + ours.ru_utime + ours.ru_stime


def _empty(target: dict[str, Any]) -> None:
    with closing(connect(target)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "TRUNCATE flux.mg_bess_readings, flux.mg_gap_ledger, flux.mg_backfill_batch,"
            " flux.mg_backfill_conflict"
        )


def _some_that_differ(source: dict[str, Any], target: dict[str, Any]) -> int:
    """Store every hundredth row with another value; return how many."""
    with closing(connect(source)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT device_id::text, time, seq FROM flux.mg_bess_readings WHERE seq % 100 = 50")
        rows = cursor.fetchall()
    from psycopg2.extras import execute_values

    with closing(connect(target)) as connection, connection, connection.cursor() as cursor:
        execute_values(
            cursor, "INSERT INTO flux.mg_bess_readings (device_id, time, seq) VALUES %s", rows, page_size=1000
        )
    return len(rows)


def _ledger(target: dict[str, Any], devices: list[str], each: int) -> None:
    with closing(connect(target)) as connection, connection, connection.cursor() as cursor:
        for device in devices:
            cursor.execute(
                "INSERT INTO flux.mg_gap_ledger (device_id, span, expected) VALUES (%s, tstzrange("
                "%s::timestamptz - interval '1 s', %s::timestamptz + %s * interval '1 s', '()'), %s)",
                (device, START, START, each, each),
            )


def _recover(target: dict[str, Any], source: dict[str, Any], workers: int) -> dict[str, Any]:
    """Recover in a process of its own; like that of the floor's programs, its start counts."""
    done = subprocess.run(
        [sys.executable, "-c", _WORKER],
        input=json.dumps([target, source, workers]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _floor(cluster: PostgresCluster, source: dict[str, Any], target: dict[str, Any]) -> None:
    psql = [
        str(cluster.programs / "psql"),
        "-qX",
        "-h",
        "127.0.0.1",
        "-p",
        str(cluster.port),
        "-U",
        "postgres",
    ]
    environment = os.environ | {"PGPASSWORD": source["password"]}
    query = "COPY (SELECT * FROM flux.mg_bess_readings ORDER BY device_id, time) TO STDOUT"
    with subprocess.Popen(
        [*psql, "-d", source["name"], "-c", query], stdout=subprocess.PIPE, env=environment
    ) as sender:
        subprocess.run(
            [*psql, "-d", target["name"], "-c", "COPY flux.mg_bess_readings FROM STDIN"],
            stdin=sender.stdout,
            env=environment,
            check=True,
        )


if __name__ == "__main__":
    main()
