"""What backup and restore cost, beside a plain copy of the same files, and beside the guides' way.

    python bench/restore.py                       # 2 GiB, three instants
    python bench/restore.py --gib 6 --instants 10

A private cluster with the real table of readings, filled to the size, with a repository in a directory
beside it (two processes, zstd, bundles, as the role has them). Floor: `cp -a` of the data directory without
its WAL, then fsync of every file, as after each restore. The guides' way: `pg_dump | psql` into a new
database of the same server, and a checkpoint. All is on one file system; each way runs `--rounds` times, in
turns; medians count.

Then writers commit rows while a recorder notes when each was sent and when it was acknowledged. Scratch
restores to random instants must have every row that was acknowledged by then, none that was sent later, and
exactly those that the server itself had committed by then. Fails when a set is wrong or a target is missed.
All data are deleted at the end.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/unit"))

from backup_world import BackupWorld  # noqa: E402 (found by the path above)
from telemetry_database import create_tables  # noqa: E402 (likewise)

from free_port import free_port  # noqa: E402 (likewise)
from stationkeeper.restore.request import parse_request  # noqa: E402 (stands after them)
from stationkeeper.restore.scratch import Scratch  # noqa: E402 (likewise)

DEVICES = 20
# At most this many times as long as the copy; at least this many times as fast as the guides' way.
TARGETS = {"full restore": 1.5, "delta restore": 1.0, "guides": 8.0}
_ROWS = """
INSERT INTO flux.mg_bess_readings
SELECT '2026-01-05T00:00Z'::timestamptz + n * interval '1 second',
       md5('device ' || d)::uuid, md5('device ' || d)::uuid, n, n, random() * 100 - 50,
       random() * 100, random() * 100, 230 + random(), 50 + random() / 100, 20 + random() * 5, 3, 0,
       'synchronised'
FROM generate_series(%(first)s, %(first)s + %(count)s - 1) AS n, generate_series(1, %(devices)s) AS d
"""


@dataclass(frozen=True)
class Sent:
    """One row of a writer: when it was sent and when the server had acknowledged it, by the same clock."""

    number: int
    sent: datetime
    acknowledged: datetime


def main() -> int:
    """Run the benchmark; 1 when a target is missed or a restored set is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gib", type=float, default=2.0, help="size of the database in GiB")
    parser.add_argument("--instants", type=int, default=3, help="restores to random instants")
    parser.add_argument(
        "--rounds", type=int, default=1, help="rounds of backup, copy, restores and the guides' way"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the instants")
    options = parser.parse_args()
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < options.gib * 7 * 2**30:
        parser.error(f"{tempfile.gettempdir()} has {free >> 30} GiB free, this needs seven times --gib")
    world = BackupWorld(
        shared_buffers="512MB", max_wal_size="8GB", fsync="on", full_page_writes="on", synchronous_commit="on"
    )
    try:
        return _run(world, options)
    finally:
        world.remove()


def _run(world: BackupWorld, options: argparse.Namespace) -> int:
    size = _fill(world, options.gib)
    print(f"database of {size / 2**30:.2f} GiB, {options.rounds} rounds; seconds are medians", flush=True)
    rounds = [_round(world) for _ in range(options.rounds)]
    seconds = {name: statistics.median(entry[name] for entry in rounds) for name in rounds[0]}
    for name, value in seconds.items():
        print(f"  {name:32} {value:7.1f} s")
    copy = seconds["copy (cp -a, fsync): the floor"]
    ratios = {
        "full restore": seconds["full restore"] / copy,
        "delta restore": seconds["delta restore"] / copy,
        "guides": seconds["the guides' pg_dump | psql"] / seconds["full restore"],
    }
    missed = []
    for name, ratio in ratios.items():
        good = ratio >= TARGETS[name] if name == "guides" else ratio <= TARGETS[name]
        text = "times as fast as the guides' way" if name == "guides" else "of the copy"
        limit = "at least" if name == "guides" else "at most"
        print(
            f"  {name:15} {ratio:6.2f} {text}, target {limit} {TARGETS[name]}: {'met' if good else 'MISSED'}"
        )
        missed += [] if good else [name]
    backup = seconds["full backup"] / copy
    print(f"  full backup     {backup:6.2f} of the copy: it compresses, which is the processor's time")
    wrong = _instants(world, options)
    return 1 if missed or wrong else 0


def _fill(world: BackupWorld, gib: float) -> int:
    create_tables(world.cluster.settings()).close()
    step, first = 20_000, 0
    with closing(world.connect()) as connection, connection.cursor() as cursor:
        size = 0
        while size < gib * 2**30:
            cursor.execute(_ROWS, {"first": first, "count": step, "devices": DEVICES})
            first += step
            cursor.execute("SELECT pg_database_size(current_database())")
            size = (cursor.fetchone() or (0,))[0]
        cursor.execute("CREATE TABLE recorded (n bigint PRIMARY KEY, sent timestamptz NOT NULL)")
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("CHECKPOINT")
    return int(size)


def _timed(action: Callable[[], object], tree: Path | None = None) -> float:
    # What was written before must not count, and what this writes must; nothing that others write.
    subprocess.run(["sync"], check=True)
    began = time.monotonic()
    action()
    if tree is not None:
        subprocess.run(["find", str(tree), "-type", "f", "-exec", "sync", "{}", "+"], check=True)
    return time.monotonic() - began


def _round(world: BackupWorld) -> dict[str, float]:
    installation, data = world.installation, world.cluster.data
    target, copy = data.with_name("restored"), data.with_name("copy")
    installation.make_directory(target)
    restore = installation.pgbackrest(
        f"--pg1-path={target}", f"--process-max={installation.jobs}", "--archive-mode=off", "--type=immediate"
    )

    def backup(kind: str) -> None:
        world.backrest(f"--type={kind}", f"--process-max={installation.jobs}", "backup")

    seconds = {"full backup": _timed(lambda: backup("full"), world.repository)}
    with closing(world.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE flux.mg_bess_readings SET soe_percent = 1 WHERE time < '2026-01-05T00:30Z'")
    seconds["incremental backup"] = _timed(lambda: backup("incr"), world.repository)
    seconds["copy (cp -a, fsync): the floor"] = _timed(lambda: _copy(data, copy), copy)
    shutil.rmtree(copy)
    seconds["full restore"] = _timed(lambda: installation.run([*restore, "restore"]), target)
    # As after a day's damage: some files are gone, some are others.
    for path in sorted((target / "base").rglob("*"))[::7]:
        if path.is_file():
            path.unlink()
    seconds["delta restore"] = _timed(lambda: installation.run([*restore, "--delta", "restore"]), target)
    shutil.rmtree(target)
    seconds["the guides' pg_dump | psql"] = _timed(lambda: _guides(world))
    with closing(world.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("DROP DATABASE guides")
    return seconds


def _copy(data: Path, copy: Path) -> None:
    # Without WAL, which a restore does not bring either, but for the little that it replays.
    copy.mkdir()
    parts = [str(path) for path in data.iterdir() if path.name != "pg_wal"]
    subprocess.run(["cp", "-a", *parts, str(copy)], check=True)


def _guides(world: BackupWorld) -> None:
    with closing(world.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE guides TEMPLATE template0")
    where = f"-h {world.cluster.directory} -p {world.cluster.port} -U postgres"
    programs = world.cluster.programs
    command = f"{programs}/pg_dump {where} postgres | {programs}/psql {where} -q -X guides >/dev/null"
    subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True)
    with closing(world.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("CHECKPOINT")


def _instants(world: BackupWorld, options: argparse.Namespace) -> list[str]:
    """Restore to random instants of a time of writing, and compare with what was recorded."""
    recorded: list[Sent] = []
    stop = threading.Event()

    def write(first: int) -> None:
        number = first
        with closing(world.connect()) as connection, connection.cursor() as cursor:
            while not stop.is_set():
                sent = datetime.now(UTC)
                cursor.execute("INSERT INTO recorded VALUES (%s, %s)", (number, sent))
                recorded.append(Sent(number, sent, datetime.now(UTC)))
                number += 2
                time.sleep(0.005)

    began = datetime.now(UTC)
    writers = [threading.Thread(target=write, args=(first,)) for first in range(2)]
    for writer in writers:
        writer.start()
    time.sleep(20)
    stop.set()
    for writer in writers:
        writer.join()
    world.archive()
    span = (recorded[-1].sent - began).total_seconds()
    with closing(world.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT n, pg_xact_commit_timestamp(xmin) FROM recorded")
        committed = dict(cursor.fetchall())
    chooser = random.Random(options.seed)  # noqa: S311 (no secret)
    wrong = []
    for number in range(options.instants):
        instant = began + timedelta(seconds=chooser.uniform(0.1, span - 1))
        began_at = time.monotonic()
        scratch = Scratch(world.installation, world.base, f"instant{number}", free_port())
        verdict = scratch.make(parse_request(instant.isoformat(), None), timeout_s=3600)
        seconds = time.monotonic() - began_at
        found: set[int] = set()
        if verdict.reached:
            with closing(scratch.server.connect()) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT n FROM recorded")
                found = {n for (n,) in cursor.fetchall()}
        scratch.remove()
        must = {row.number for row in recorded if row.acknowledged <= instant}
        may = {row.number for row in recorded if row.sent <= instant}
        exact = {n for n, at in committed.items() if at <= instant}
        good = verdict.reached and must <= found <= may and found == exact
        print(
            f"  {instant.isoformat()}: {len(found)} rows, recorder {len(must)} to {len(may)}, server"
            f" {len(exact)}: {'equal' if good else 'WRONG ' + verdict.message}; in {seconds:.1f} s"
        )
        wrong += [] if good else [instant.isoformat()]
    right = options.instants - len(wrong)
    print(f"  {right} of {options.instants} random instants are right (seed {options.seed})")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
