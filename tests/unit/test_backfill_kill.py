"""kill -9 of a recovery at random moments: the next run goes on, and in the end all is as in the source."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg2.extensions
import pytest
from backfill_world import START, World, make_world
from postgres_cluster import PostgresCluster

from stationkeeper.telemetry import source
from stationkeeper.telemetry.backfill.engine import Options
from stationkeeper.telemetry.backfill.postgres import PostgresSource
from stationkeeper.telemetry.backfill.workers import recover

DEVICES, ROWS = 10, 6000
KILLS = 20


@pytest.fixture
def world(postgres_cluster: PostgresCluster) -> Iterator[World]:
    yield from make_world(postgres_cluster)


def work(world: World) -> None:
    """Recover in small slices, so that there are many moments to be killed at."""
    recover(
        world.target | {"user": "flux_operator"},
        lambda: [PostgresSource("second", world.source | {"user": "flux_reader"})],
        Options(slice_rows=500, claim_at_once=2),
    )


def killed_at_statement(number: int) -> None:
    """Let this process die by SIGKILL just before its nth statement, of whichever connection."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    class Cursor(psycopg2.extensions.cursor):
        def execute(self, *arguments: Any) -> None:
            step()
            super().execute(*arguments)

        def copy_expert(self, *arguments: Any, **options: Any) -> None:
            step()
            super().copy_expert(*arguments, **options)

    connect = source.connect

    def connect_and_count(*arguments: Any, **options: Any) -> Any:
        connection = connect(*arguments, **options)
        connection.cursor_factory = Cursor
        return connection

    source.connect = connect_and_count


def in_child(action: Callable[[], None]) -> int:
    """Run something in a copy of this process and return the copy's number."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return child


def ended(child: int) -> bool:
    """Wait for a child; tell whether a signal ended it."""
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def let_leases_end(world: World) -> None:
    """Wait until the server has noticed that its client is gone, and let the lease run out."""
    others = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    while world.on(world.target, others) != [(0,)]:
        time.sleep(0.02)
    world.on(
        world.target,
        "UPDATE flux.mg_gap_ledger SET lease_until = now() - interval '1 second' WHERE state = 'claimed'",
    )


@pytest.mark.criterion("GR-4")
def test_a_recovery_killed_at_twenty_moments_ends_with_the_same_rows(world: World) -> None:
    for number in range(DEVICES):
        device = world.device(f"D{number}")
        world.rows(world.source, device, count=ROWS)
        world.gap(device, START - timedelta(seconds=1), START + timedelta(seconds=ROWS), ROWS)
    chance = random.Random(4)
    killed = 0
    for turn in range(KILLS):
        if turn % 2:
            # Between two statements, anywhere in some two hundred.
            at = chance.randrange(1, 200)
            child = in_child(lambda at=at: (killed_at_statement(at), work(world)))
        else:
            # In the middle of whatever it does just then.
            child = in_child(lambda: work(world))
            time.sleep(chance.uniform(0.02, 0.3))
            os.kill(child, signal.SIGKILL)
        killed += ended(child)
        let_leases_end(world)
        stored = world.checksum(world.target)[0]
        noted = world.on(world.target, "SELECT coalesce(sum(rows_new), 0)::int FROM flux.mg_backfill_batch")
        assert noted == [(stored,)], "rows without provenance, or provenance without rows"
    assert killed >= KILLS // 2
    work(world)
    assert world.checksum(world.target) == world.checksum(world.source)
    assert world.states() == ["recovered"] * DEVICES
    batches = world.on(
        world.target,
        "SELECT sum(rows_in)::int, sum(rows_new)::int, sum(conflicts)::int FROM flux.mg_backfill_batch",
    )
    assert batches == [(DEVICES * ROWS, DEVICES * ROWS, 0)]
    overlaps = world.on(
        world.target,
        "SELECT count(*) FROM flux.mg_backfill_batch a JOIN flux.mg_backfill_batch b"
        " ON a.id < b.id AND a.device_id = b.device_id AND a.span && b.span",
    )
    assert overlaps == [(0,)]
