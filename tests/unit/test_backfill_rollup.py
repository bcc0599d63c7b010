"""The rollup after a recovery equals one from scratch, and is never computed where readings were dropped."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise

import pytest
from backfill_world import START, World, make_world
from postgres_cluster import PostgresCluster
from telemetry_database import ROOT

from stationkeeper.database.statements import split
from stationkeeper.telemetry.backfill.rollup import merged
from stationkeeper.telemetry.backfill.slices import Slice, between, cut

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# What the function needs of TimescaleDB, on plain PostgreSQL.
_STAND_INS = """
CREATE FUNCTION public.time_bucket(width interval, moment timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE AS $$ SELECT date_bin(width, moment, timestamptz '2000-01-03T00:00Z') $$;
CREATE FUNCTION public.last_step(kept float8[], value float8, moment timestamptz) RETURNS float8[]
    LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN kept[2] IS NULL OR extract(epoch FROM moment)::float8 >= kept[2]
           THEN ARRAY[value, extract(epoch FROM moment)::float8] ELSE kept END $$;
CREATE FUNCTION public.last_end(kept float8[]) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$ SELECT kept[1] $$;
CREATE AGGREGATE public.last(float8, timestamptz)
    (SFUNC = public.last_step, STYPE = float8[], FINALFUNC = public.last_end, INITCOND = '{}')
"""
_ROLLUP = "flux.mg_meter_readings_5m_intermediate"


@pytest.fixture
def world(postgres_cluster: PostgresCluster) -> Iterator[World]:
    for one in make_world(postgres_cluster):
        migration = split((ROOT / "migrations/flux/0002_rollup_and_retention.sql").read_text())
        function = next(s.text for s in migration if "FUNCTION flux.refresh_meter_readings_5m" in s.text)
        rights = "EXECUTE ON FUNCTION flux.refresh_meter_readings_5m"
        grants = [s.text for s in migration if rights in s.text]
        for text in (*(s.text for s in split(_STAND_INS)), function, *grants):
            one.on(one.target, text)
        yield one


def rollup(world: World) -> list[tuple[object, ...]]:
    """The buckets. An average depends in its last digit on the order in which the rows lie."""
    columns = "bucket, device_id::text, samples, round(power_kw_avg::numeric, 9)::float8"
    others = "power_kw_min, power_kw_max, energy_import_kwh, energy_export_kwh"
    query = f"SELECT {columns}, {others} FROM {_ROLLUP} ORDER BY 2, 1"
    return world.on(world.target, query)


@pytest.mark.criterion("GR-7")
def test_the_rollup_of_recovered_spans_equals_one_from_scratch(world: World) -> None:
    devices = [world.device(f"M{number}", kind="meter", cadence_s=10) for number in range(3)]
    for device in devices:
        world.rows(world.source, device, count=2000, kind="meter", cadence_s=10)
        world.rows(world.target, device, count=2000, kind="meter", cadence_s=10)
    world.on(world.target, "SELECT flux.refresh_meter_readings_5m(%s, %s)", START, START + DAY)
    whole = rollup(world)
    world.on(world.target, "DELETE FROM flux.mg_meter_readings WHERE seq BETWEEN 500 AND 1499")
    world.on(world.target, f"DELETE FROM {_ROLLUP}")
    world.on(world.target, "SELECT flux.refresh_meter_readings_5m(%s, %s)", START, START + DAY)
    assert rollup(world) != whole
    for device in devices:
        times = "SELECT max(time) FILTER (WHERE seq = 499), min(time) FILTER (WHERE seq = 1500)"
        first, last = world.on(
            world.target, f"{times} FROM flux.mg_meter_readings WHERE device_id = %s", device
        )[0]
        world.gap(device, first, last, 1000)
    outcome = world.recover()
    assert outcome.entries == {"recovered": 3}
    assert outcome.buckets > 90
    assert rollup(world) == whole
    assert world.on(world.target, "SELECT DISTINCT evidence->>'rollup' FROM flux.mg_gap_ledger") == [
        ("refreshed",)
    ]


@pytest.mark.criterion("GR-4", "GR-7")
def test_a_rollup_that_a_killed_run_left_waiting_is_computed_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = world.device("M", kind="meter", cadence_s=60)
    world.rows(world.source, device, count=600, kind="meter", cadence_s=60)
    world.gap(device, START - MINUTE, START + 10 * HOUR, 600)

    def dies(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("stationkeeper.telemetry.backfill.rollup.refresh", dies)
    with pytest.raises(KeyboardInterrupt):
        world.recover()
    monkeypatch.undo()
    assert (world.states(), rollup(world)) == (["recovered"], [])
    assert world.recover().buckets == 120
    assert len(rollup(world)) == 120
    assert world.recover().buckets == 0


@pytest.mark.criterion("GR-8")
def test_no_bucket_before_the_horizon_of_retention_is_computed(world: World) -> None:
    device = world.device("M", kind="meter", cadence_s=60)
    world.rows(world.source, device, count=2880, kind="meter", cadence_s=60)
    world.on(
        world.target,
        f"INSERT INTO {_ROLLUP} (bucket, device_id, samples) VALUES (%s, %s, 5)",
        START + 23 * HOUR,
        device,
    )
    world.on(
        world.target,
        "INSERT INTO ops.retention (relation, dropped_before) VALUES ('flux.mg_meter_readings', %s)",
        START + DAY,
    )
    world.gap(device, START, START + 2 * DAY, 2880)
    outcome = world.recover()
    assert (outcome.rows_new, outcome.buckets) == (1440, 288)
    assert rollup(world)[0][:3] == (START + 23 * HOUR, device, 5)
    assert rollup(world)[1][0] == START + DAY


def test_spans_are_widened_to_buckets_and_joined() -> None:
    spans = [
        Slice(START + 7 * MINUTE, START + 8 * MINUTE),
        Slice(START + 11 * MINUTE, START + 16 * MINUTE),
        Slice(START + DAY - MINUTE, START + DAY + MINUTE),
        Slice(START - HOUR, START),
    ]
    assert list(merged(spans, START)) == [
        Slice(START + DAY, START + DAY + 5 * MINUTE),
        Slice(START + DAY - 5 * MINUTE, START + DAY),
        Slice(START + 5 * MINUTE, START + 20 * MINUTE),
    ]


def test_slices_cover_a_span_without_overlap() -> None:
    span = between(START + HOUR, START + 2 * DAY + 3 * HOUR)
    for cadence_s, rows in ((60.0, 50_000), (1.0, 50_000), (0.1, 50_000), (1.0, 7), (0.001, 1)):
        if cadence_s * rows < 60 and rows < 100:
            span = between(START + HOUR, START + HOUR + 5 * MINUTE)
        slices = list(cut(span, cadence_s, rows=rows))
        assert slices[0].end == span.end
        assert slices[-1].start == span.start
        assert all(newer.start == older.end for newer, older in pairwise(slices))
        limit = max(1, min(86_400, int(cadence_s * rows)))
        assert all(one.start < one.end <= one.start + timedelta(seconds=limit) for one in slices)
        assert all((one.end - timedelta(microseconds=1)).date() == one.start.date() for one in slices)
