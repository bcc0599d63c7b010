"""Recovery from a second database into a ledger's gaps, on real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from backfill_world import START, World, make_world
from postgres_cluster import PostgresCluster

HOUR = timedelta(hours=1)


@pytest.fixture
def world(postgres_cluster: PostgresCluster) -> Iterator[World]:
    yield from make_world(postgres_cluster)


def test_a_hole_is_filled_with_the_rows_of_the_second_database(world: World) -> None:
    device = world.device("A")
    world.rows(world.source, device, count=3 * 3600)
    world.rows(world.target, device, count=3600)
    gap = world.gap(device, START + timedelta(seconds=3599.1), START + 3 * HOUR, 7200)
    outcome = world.recover()
    assert (outcome.rows_in, outcome.rows_new, outcome.conflicts) == (7200, 7200, 0)
    assert world.checksum(world.target) == world.checksum(world.source)
    assert world.states() == ["recovered"]
    batches = world.on(
        world.target,
        "SELECT ledger_id, device_id::text, source, rows_in, rows_new FROM flux.mg_backfill_batch",
    )
    assert batches == [(gap, device, "second", 7200, 7200)]
    assert world.recover().rows_in == 0
