"""kill -9 of a recovery at random moments: the next run goes on, and in the end all is as in the source."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from backfill_world import World, make_world
from killed_recovery import kill_once, lose_rows, require_recovered, work
from postgres_cluster import PostgresCluster

DEVICES, ROWS, SLICE = 10, 6000, 500
KILLS = 20


@pytest.fixture
def world(postgres_cluster: PostgresCluster) -> Iterator[World]:
    yield from make_world(postgres_cluster)


@pytest.mark.criterion("GR-4")
def test_a_recovery_killed_at_twenty_moments_ends_with_the_same_rows(world: World) -> None:
    """`bench/kill_recovery.py` does it with a million rows."""
    devices = lose_rows(world, devices=DEVICES, rows=ROWS)
    chance = random.Random(4)
    killed = sum(
        kill_once(world, chance, at_statement=turn % 2 == 1, slice_rows=SLICE, at_most_s=0.3)
        for turn in range(KILLS)
    )
    assert killed >= KILLS // 2
    work(world, SLICE)
    require_recovered(world, devices, ROWS)
