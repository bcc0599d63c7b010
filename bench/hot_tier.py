"""What a refresh of the hot tier costs, beside the same commands sent as fast as Redis takes them.

    python bench/hot_tier.py                 # 20 devices, 24 hours at 5 s: 345,600 points
    python bench/hot_tier.py --devices 200   # 3.5 million

The floor is `redis-cli --pipe` with every ZADD of the refresh ready in a file. The refresh adds the database:
it reads the rows, writes them as points, builds each series beside the old one, compares both, and counts
again. Floor and refresh take turns. Prints points a second, ratios, bytes a point, and the largest memory
that the process of the refresh had.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/unit"))

from hot_tier_world import NAMES  # noqa: E402 (found by the path above)
from postgres_cluster import PostgresCluster  # noqa: E402 (likewise)
from redis_server import PASSWORD, RedisServer  # noqa: E402 (likewise)
from telemetry_database import add_device, create_tables  # noqa: E402 (likewise)

from stationkeeper.database.connection import connect  # noqa: E402 (stands after them)
from stationkeeper.hot_tier import rows  # noqa: E402 (likewise)
from stationkeeper.hot_tier.connection import settings_of  # noqa: E402 (likewise)
from stationkeeper.hot_tier.refresh import Request, refresh  # noqa: E402 (likewise)
from stationkeeper.telemetry.source import snapshot  # noqa: E402 (likewise)

CADENCE_S = 5
# Values as devices give them: whole registers by a power of ten.
_ROWS = """
INSERT INTO flux.mg_bess_readings
SELECT %(end)s::timestamptz - n * make_interval(secs => %(step)s), %(device)s, %(device)s, n, n,
       (round(random() * 1000) - 500) / 10, (round(random() * 1000) - 500) / 10, round(random() * 1000) / 10,
       (4000 + round(random() * 100)) / 10, (50000 + round(random() * 100)) / 1000,
       (200 + round(random() * 100)) / 10, 3, 0, 'synchronised'
FROM generate_series(1, %(count)s) AS n
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parsed = parser.parse_args()
    cluster, server = PostgresCluster(), RedisServer()
    try:
        cluster.start()
        _measure(cluster, server, parsed.devices, parsed.rounds)
    finally:
        cluster.remove()
        server.remove()


def _measure(cluster: PostgresCluster, server: RedisServer, devices: int, rounds: int) -> None:
    settings = cluster.create_database()
    end = datetime.now(UTC)
    with closing(create_tables(settings)) as connection:
        ids = [
            add_device(
                connection, f"D-{number:04d}", cadence_s=CADENCE_S, active_from=end - timedelta(days=9)
            )
            for number in range(devices)
        ]
        with connection, connection.cursor() as cursor:
            for device in ids:
                cursor.execute(
                    _ROWS, {"device": device, "count": 86400 // CADENCE_S, "end": end, "step": CADENCE_S}
                )
        connection.autocommit = True
        connection.cursor().execute("VACUUM ANALYZE flux.mg_bess_readings")
    empty = server.admin.info("memory")["used_memory"]
    commands = server.directory / "commands"
    points = _write_commands(settings, commands)
    floors, forced = [], []
    for _ in range(rounds):
        server.admin.flushall()
        floors.append(_pipe(server, commands))
        server.admin.flushall()
        forced.append(_refresh(settings, server, force=True))
    used = server.admin.info("memory")["used_memory"] - empty
    again = [_refresh(settings, server, force=True) for _ in range(rounds)]
    idle = [_refresh(settings, server, force=False) for _ in range(rounds)]
    floor = statistics.median(floors)
    print(f"{devices} devices, {points} points, load average {os.getloadavg()[0]:.1f}")
    print(f"{'floor, redis-cli --pipe':<34} {points / floor:>10,.0f} points/s")
    for name, times in (("refresh of an empty cache", forced), ("refresh with force over a full one", again)):
        taken = statistics.median(times)
        print(f"{name:<34} {points / taken:>10,.0f} points/s, {taken / floor:.2f} times the floor")
    taken = statistics.median(idle)
    print(f"{'incremental, a few seconds later':<34} {taken:>10.2f} s, {taken / floor:.2f} times the floor")
    print(f"{'memory of Redis':<34} {used / points:>10.0f} bytes a point, {used / 2**20:.0f} MiB")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'memory of the refresh, at most':<34} {largest:>10.0f} MiB")


def _write_commands(settings: dict[str, object], path: Path) -> int:
    """Write every ZADD of a refresh as Redis' protocol and return the number of points."""
    number = 0
    with (
        closing(connect(settings)) as connection,
        path.open("wb") as file,
        snapshot(connection, timeout_s=600) as cursor,
    ):
        window = rows.window(cursor)
        file.write(_protocol("AUTH", "flux", PASSWORD))
        for device in rows.sources(cursor, "flux"):
            for batch in rows.stream(cursor, "flux", device, window.start, window.end):
                file.write(
                    _protocol(
                        "ZADD",
                        NAMES.timeseries(device.name),
                        *(str(part) for point in batch for part in point),
                    )
                )
                number += len(batch)
    return number


def _protocol(*parts: str) -> bytes:
    return b"".join(
        [b"*%d\r\n" % len(parts), *(b"$%d\r\n%s\r\n" % (len(part), part.encode()) for part in parts)]
    )


def _pipe(server: RedisServer, commands: Path) -> float:
    began = time.monotonic()
    with commands.open("rb") as file:
        subprocess.run(
            ["redis-cli", "-p", str(server.port), "--pipe"], stdin=file, check=True, capture_output=True
        )
    return time.monotonic() - began


def _refresh(settings: dict[str, object], server: RedisServer, *, force: bool) -> float:
    began = time.monotonic()
    with closing(connect(settings)) as connection:
        refresh(connection, settings_of(server.settings()), Request("flux", force=force))
    return time.monotonic() - began


if __name__ == "__main__":
    main()
