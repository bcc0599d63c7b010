"""kill -9 of a recovery of a million rows at twenty random moments, then a run to its end.

    python bench/kill_recovery.py                    # seed 4, one to two minutes
    python bench/kill_recovery.py --seed 17 --rows 200000

Every other kill comes between two statements, the others in the middle of whatever the recovery does then.
After each one the rows stored are those that the batches tell of. In the end both databases have the same
count and checksum for every hour of every device, no row or batch is there twice, and no entry of the ledger
is left. Fails with the first thing that is not so.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/unit"))

from backfill_world import World, make_world
from killed_recovery import kill_once, lose_rows, require_recovered, work
from postgres_cluster import PostgresCluster

DEVICES = 10
KILLS = 20
# So small that no twenty runs which are killed could end the recovery between them.
SLICES = 400


def main() -> None:
    """Kill, recover, compare, and print the verdict."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=4)
    parsed = parser.parse_args()
    cluster = PostgresCluster()
    try:
        cluster.start(shared_buffers="128MB")
        for world in make_world(cluster):
            _kill_and_compare(world, parsed.rows // DEVICES, parsed.seed)
    finally:
        cluster.remove()


def _kill_and_compare(world: World, each: int, seed: int) -> None:
    print(f"{each * DEVICES:,} rows of {DEVICES} devices, seed {seed}", flush=True)
    devices = lose_rows(world, devices=DEVICES, rows=each)
    slice_rows = max(1, each * DEVICES // SLICES)
    chance = random.Random(seed)  # noqa: S311 (no secret: a seed makes the moments come again)
    for turn in range(1, KILLS + 1):
        killed = kill_once(world, chance, at_statement=turn % 2 == 1, slice_rows=slice_rows, at_most_s=1.0)
        assert killed, f"run {turn} came to its end before it was killed; use more rows"
        stored = world.checksum(world.target)[0]
        print(f"kill {turn:2}: {stored:,} rows stored, as the batches tell", flush=True)
    began = time.monotonic()
    work(world, slice_rows)
    print(f"last run, to the end: {time.monotonic() - began:.1f} s")
    hours = require_recovered(world, devices, each)
    print(
        f"passed: {hours} hours of {DEVICES} devices have the same count and checksum in both databases, no "
        "row or batch is there twice, every entry is recovered, none claimed"
    )


if __name__ == "__main__":
    main()
