"""kill -9 of a recovery at random moments, and what has to be true afterwards."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg2.extensions
from backfill_world import START, World

from stationkeeper.database.connection import connect
from stationkeeper.telemetry import source
from stationkeeper.telemetry.backfill.engine import Options
from stationkeeper.telemetry.backfill.postgres import PostgresSource
from stationkeeper.telemetry.backfill.proof import prove, total
from stationkeeper.telemetry.backfill.tables import read_tables
from stationkeeper.telemetry.backfill.workers import recover


def lose_rows(world: World, *, devices: int, rows: int) -> list[str]:
    """Store ``rows`` rows of each device in the source only, and a gap for each; return the devices."""
    made = [world.device(f"D{number}") for number in range(devices)]
    for device in made:
        world.rows(world.source, device, count=rows)
        world.gap(device, START - timedelta(seconds=1), START + timedelta(seconds=rows), rows)
    return made


def work(world: World, slice_rows: int) -> None:
    """Recover in small slices, so that there are many moments to be killed at."""
    recover(
        world.target | {"user": "flux_operator"},
        lambda: [PostgresSource("second", world.source | {"user": "flux_reader"})],
        Options(slice_rows=slice_rows, claim_at_once=2),
    )


def kill_once(
    world: World, chance: random.Random, *, at_statement: bool, slice_rows: int, at_most_s: float
) -> bool:
    """Begin a recovery, kill it, and let its leases end. Tell whether it was killed before its end."""
    if at_statement:
        # Between two statements, anywhere in some two hundred.
        at = chance.randrange(1, 200)
        child = in_child(lambda: (killed_at_statement(at), work(world, slice_rows)))
    else:
        # In the middle of whatever it does just then.
        child = in_child(lambda: work(world, slice_rows))
        time.sleep(chance.uniform(0.02, at_most_s))
        os.kill(child, signal.SIGKILL)
    killed = ended(child)
    let_leases_end(world)
    stored = world.checksum(world.target)[0]
    noted = world.on(world.target, "SELECT coalesce(sum(rows_new), 0)::int FROM flux.mg_backfill_batch")
    assert noted == [(stored,)], "rows without provenance, or provenance without rows"
    return killed


def require_recovered(world: World, devices: list[str], rows: int) -> int:
    """Hold both databases against each other by device and hour, and the ledger. Return the hours."""
    hours = 0
    for device in devices:
        proofs = []
        for settings in (world.source, world.target):
            with closing(connect(settings)) as connection, connection.cursor() as cursor:
                table = read_tables(cursor, "flux")["bess"]
                end = START + timedelta(seconds=rows)
                proofs.append(prove(cursor, table, device, START - timedelta(days=1), end))
        assert proofs[0] == proofs[1], f"device {device} differs"
        assert total(proofs[1]) == rows, f"device {device} has {total(proofs[1])} rows of {rows}"
        hours += len(proofs[1])
    assert world.checksum(world.target) == world.checksum(world.source)
    assert world.on(
        world.target,
        "SELECT count(*) FROM (SELECT FROM flux.mg_bess_readings GROUP BY device_id, time"
        " HAVING count(*) > 1) d",
    ) == [(0,)], "a row is there twice"
    assert world.states() == ["recovered"] * len(devices), "an entry is not recovered"
    expected = len(devices) * rows
    batches = world.on(
        world.target,
        "SELECT sum(rows_in)::int, sum(rows_new)::int, sum(conflicts)::int FROM flux.mg_backfill_batch",
    )
    assert batches == [(expected, expected, 0)], f"a row was recovered twice: {batches}"
    overlaps = world.on(
        world.target,
        "SELECT count(*) FROM flux.mg_backfill_batch a JOIN flux.mg_backfill_batch b"
        " ON a.id < b.id AND a.device_id = b.device_id AND a.span && b.span",
    )
    assert overlaps == [(0,)], "two batches overlap"
    return hours


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


def in_child(action: Callable[[], Any]) -> int:
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
