"""Recovery from a second database into a ledger's gaps, on real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from backfill_world import START, World, make_world
from postgres_cluster import PostgresCluster

from stationkeeper.database.connection import connect
from stationkeeper.telemetry import ledger
from stationkeeper.telemetry.backfill.archive import ArchiveSource
from stationkeeper.telemetry.backfill.batch import Batch
from stationkeeper.telemetry.backfill.engine import Options
from stationkeeper.telemetry.backfill.export import export
from stationkeeper.telemetry.backfill.pacing import Throttle
from stationkeeper.telemetry.backfill.postgres import PostgresSource
from stationkeeper.telemetry.backfill.run import Scope, SourceSpec, foresee, recover_all
from stationkeeper.telemetry.backfill.workers import recover
from stationkeeper.telemetry.source import TelemetryError

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


def test_a_second_source_is_asked_only_for_what_the_first_lacks(world: World, tmp_path: Path) -> None:
    device = world.device("A", cadence_s=10)
    world.rows(world.source, device, count=2000, cadence_s=10)
    with closing(connect(world.source)) as connection:
        export(connection, tmp_path / "a", START, START + HOUR * 24)
    world.on(world.source, "DELETE FROM flux.mg_bess_readings WHERE seq BETWEEN 500 AND 899")
    world.gap(device, START - timedelta(seconds=10), START + timedelta(seconds=20_000), 2000)
    second = PostgresSource("second", world.source)
    outcome = world.recover(second, ArchiveSource("cold", tmp_path / "a"))
    assert (outcome.rows_in, outcome.rows_new, outcome.entries) == (2000, 2000, {"recovered": 1})
    query = "SELECT source, sum(rows_new)::int FROM flux.mg_backfill_batch GROUP BY 1 ORDER BY 1"
    assert world.on(world.target, query) == [("cold", 400), ("second", 1600)]
    assert world.on(world.target, "SELECT source FROM flux.mg_gap_ledger") == [("cold, second",)]


def test_slices_end_at_midnight_and_newest_comes_first(world: World) -> None:
    device = world.device("A", cadence_s=60)
    world.rows(world.source, device, count=3000, cadence_s=60)
    world.gap(device, START - timedelta(minutes=1), START + timedelta(minutes=3000), 3000)
    assert world.recover(slice_rows=720).entries == {"recovered": 1}
    query = "SELECT lower(span), rows_new FROM flux.mg_backfill_batch ORDER BY committed_at, lower(span) DESC"
    batches = world.on(world.target, query)
    assert [rows for _, rows in batches] == [120, 720, 720, 720, 720]
    assert [start for start, _ in batches] == [START + 12 * HOUR * n for n in (4, 3, 2, 1, 0)]


@pytest.mark.criterion("GR-6")
def test_conflicts_are_reported_and_the_stored_rows_stay(world: World) -> None:
    device = world.device("A")
    world.rows(world.source, device, count=7200)
    world.rows(world.target, device, count=7200)
    world.on(world.target, "DELETE FROM flux.mg_bess_readings WHERE seq % 10 > 0")
    world.on(world.target, "UPDATE flux.mg_bess_readings SET power_kw = 1234 WHERE seq % 100 = 0")
    checksum = "SELECT count(*), bit_xor(hashtextextended(r::text, 0)) FROM flux.mg_bess_readings r"
    kept = f"{checksum} WHERE seq % 10 = 0"
    before = world.on(world.target, kept)
    world.gap(device, START - timedelta(seconds=1), START + timedelta(seconds=7200), 6480)
    outcome = world.recover()
    assert (outcome.rows_in, outcome.rows_new, outcome.conflicts) == (7200, 6480, 72)
    assert world.on(world.target, kept) == before
    conflicts = world.on(
        world.target,
        "SELECT count(*)::int, min((stored->>'power_kw')::float), max((stored->>'power_kw')::float),"
        " bool_or((offered->>'power_kw')::float = 1234), min(time) FROM flux.mg_backfill_conflict",
    )
    assert conflicts == [(72, 1234, 1234, False, START)]
    others = f"{checksum} WHERE seq % 100 > 0"
    assert world.on(world.target, others) == world.on(world.source, others)
    assert world.states() == ["recovered"]


def test_rows_that_arrive_while_a_slice_is_copied_are_kept(world: World) -> None:
    """The station sends the same and other rows between the look and the copy."""
    device = world.device("A")
    world.rows(world.source, device, count=600)
    world.gap(device, START - timedelta(seconds=1), START + timedelta(seconds=600), 600)

    original, sent = Batch._copy, []

    def copy(batch: Batch, into: Any, fetched: Any) -> None:
        if not sent:
            sent.append(True)
            world.rows(world.target, device, count=300)
            world.on(
                world.target,
                "INSERT INTO flux.mg_bess_readings (device_id, time, seq) VALUES (%s, %s, -7)",
                device,
                START + timedelta(seconds=400.5),
            )
        original(batch, into, fetched)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batch, "_copy", copy)
        outcome = world.recover()
    assert (outcome.rows_in, outcome.rows_new, outcome.conflicts) == (600, 300, 0)
    world.on(world.target, "DELETE FROM flux.mg_bess_readings WHERE seq = -7")
    assert world.checksum(world.target) == world.checksum(world.source)


@pytest.mark.criterion("GR-8")
def test_what_retention_dropped_is_refused(world: World) -> None:
    whole, part = world.device("A", cadence_s=60), world.device("B", cadence_s=60)
    for device in (whole, part):
        world.rows(world.source, device, count=2880, cadence_s=60)
    world.gap(whole, START, START + 12 * HOUR, 719)
    world.gap(part, START + 12 * HOUR, START + 36 * HOUR, 1439)
    world.on(
        world.target,
        "INSERT INTO ops.retention (relation, dropped_before) VALUES ('flux.mg_bess_readings', %s)",
        START + 24 * HOUR,
    )
    outcome = world.recover()
    assert outcome.rows_new == 720
    assert world.on(world.target, "SELECT min(time) FROM flux.mg_bess_readings") == [
        (START + 24 * HOUR + timedelta(milliseconds=55),)
    ]
    entries = world.on(world.target, "SELECT state, reason FROM flux.mg_gap_ledger ORDER BY id")
    refusal = "retention has dropped the raw readings before 2026-01-06T00:00:00Z"
    assert entries == [("expired", refusal), ("partial", refusal)]


@pytest.mark.criterion("GR-12")
def test_what_no_source_has_ends_with_a_reason_and_every_row_has_a_state(world: World) -> None:
    nowhere, part = world.device("A", cadence_s=60), world.device("B", cadence_s=60)
    world.rows(world.source, part, count=600, cadence_s=60)
    world.on(world.source, "DELETE FROM flux.mg_bess_readings WHERE seq BETWEEN 100 AND 199")
    world.gap(nowhere, START - timedelta(minutes=1), START + 10 * HOUR, 600)
    world.gap(part, START - timedelta(minutes=1), START + 10 * HOUR, 600)
    assert world.recover().entries == {"open": 1, "partial": 1}
    assert world.states() == ["open", "partial", "open"]
    assert world.recover(give_up="the logger had lost its card").entries == {"unrecoverable": 2}
    entries = world.on(
        world.target, "SELECT state, recovered_rows, reason FROM flux.mg_gap_ledger ORDER BY id"
    )
    reason = "the logger had lost its card: no source has these rows (second)"
    assert entries[0] == ("unrecoverable", 0, reason)
    assert entries[1][:2] == ("partial", 500)
    assert entries[2] == ("unrecoverable", 0, reason)
    with closing(connect(world.target)) as connection:
        totals = ledger.totals(connection, START, START + 10 * HOUR)
    assert totals.as_dict() == {
        "expected": 1200, "present": 0, "recovered": 500, "explained": 700, "open": 0, "nominal": 1200,
    }  # fmt: skip


def test_a_partly_filled_gap_is_given_up_in_one_run(world: World) -> None:
    device = world.device("A", cadence_s=60)
    world.rows(world.source, device, count=300, cadence_s=60)
    world.gap(device, START - timedelta(minutes=1), START + 10 * HOUR, 600)
    world.recover(give_up="gone")
    assert world.states() == ["partial", "unrecoverable"]


def test_a_source_that_fails_leaves_its_gaps_open_and_the_others_go_on(world: World, tmp_path: Path) -> None:
    device = world.device("A", cadence_s=60)
    world.rows(world.source, device, count=600, cadence_s=60)
    with closing(connect(world.source)) as connection:
        export(connection, tmp_path / "a", START, START + HOUR)
    world.gap(device, START - timedelta(minutes=1), START + 10 * HOUR, 600)

    class Broken(PostgresSource):
        def fetch(self, *arguments: Any) -> Any:
            raise TelemetryError("the cable was cut")

    outcome = world.recover(
        Broken("second", world.source), ArchiveSource("cold", tmp_path / "a"), give_up="gone"
    )
    assert outcome.failed_sources == {"second": "second: the cable was cut"}
    assert (outcome.rows_new, outcome.entries) == (60, {"open": 1})
    assert world.recover().entries == {"recovered": 1}
    assert world.checksum(world.target) == world.checksum(world.source)


def test_it_goes_on_after_its_connection_was_cut(world: World) -> None:
    device = world.device("A", cadence_s=10)
    world.rows(world.source, device, count=8640, cadence_s=10)
    world.gap(device, START - timedelta(seconds=10), START + 24 * HOUR, 8640)
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'stationkeeper-telemetry'"
    )
    calls = 0

    class Cutting(PostgresSource):
        def fetch(self, *arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 5:
                world.on(world.target, cut)
            return super().fetch(*arguments)

    with pytest.raises(TelemetryError):
        world.recover(Cutting("second", world.source), slice_rows=360)
    assert 0 < world.checksum(world.target)[0] < 8640
    assert world.states() == ["claimed"]
    world.on(world.target, "UPDATE flux.mg_gap_ledger SET lease_until = now() - interval '1 s'")
    done = world.checksum(world.target)[0]
    assert world.recover(slice_rows=360).rows_in == 8640 - done
    assert world.checksum(world.target) == world.checksum(world.source)
    assert world.states() == ["recovered"]


def test_a_source_is_connected_to_again_after_its_connection_broke(world: World) -> None:
    device = world.device("A", cadence_s=60)
    world.rows(world.source, device, count=60, cadence_s=60)
    source = PostgresSource("second", world.source)
    world.recover(source)
    world.on(
        world.source,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()",
    )
    world.gap(device, START - timedelta(minutes=1), START + HOUR, 60)
    assert world.recover(source).entries == {"recovered": 1}


@pytest.mark.criterion("GR-10")
def test_a_source_whose_times_have_no_zone_is_refused(world: World) -> None:
    device = world.device("A")
    world.gap(device, START, START + HOUR, 3600)
    world.on(world.source, "ALTER TABLE flux.mg_meter_readings ALTER time TYPE timestamp")
    with pytest.raises(
        TelemetryError, match=r"mg_meter_readings\.time is of type timestamp without time zone"
    ):
        world.recover()
    assert world.states() == ["open"]


def test_a_source_with_other_columns_is_refused(world: World) -> None:
    world.on(world.source, "ALTER TABLE flux.mg_bess_readings ADD COLUMN extra text")
    with pytest.raises(
        TelemetryError, match=r"second: flux\.mg_bess_readings\.extra is text, but .* not there"
    ):
        world.recover()


@pytest.mark.criterion("GR-9")
def test_check_lists_spans_and_rows_and_writes_nothing(world: World) -> None:
    device = world.device("A", cadence_s=60)
    world.rows(world.source, device, count=500, cadence_s=60)
    world.gap(device, START - timedelta(minutes=1), START + 10 * HOUR, 600)
    before = world.contents()
    specs = [SourceSpec("second", "postgresql", world.source)]
    planned = [one.as_dict() for one in foresee(world.target, specs, Scope())]
    window = (START - HOUR, START + 10 * HOUR)
    found = [one.as_dict() for one in foresee(world.target, specs, Scope(window=window))]
    assert world.contents() == before
    expected = {"device": "A", "site": "WLCE", "expected": 600, "rows": {"second": 500}, "refused": ""}
    assert planned == [expected | {"from": "2026-01-04T23:59:00Z", "to": "2026-01-05T10:00:00Z"}]
    assert [one["rows"] for one in found] == [{"second": 500}]
    assert world.states() == ["open"]


def test_the_whole_way_from_a_look_to_totals(world: World) -> None:
    device = world.device("A", cadence_s=60)
    world.rows(world.source, device, count=600, cadence_s=60)
    world.rows(world.target, device, count=200, cadence_s=60)
    scope = Scope(window=(START, START + 10 * HOUR))
    specs = [SourceSpec("second", "postgresql", world.source)]
    result = recover_all(world.target | {"user": "flux_operator"}, specs, scope, Options())
    assert result.outcome.rows_new == 400
    assert result.totals == {
        "expected": 600, "present": 200, "recovered": 400, "explained": 0, "open": 0, "nominal": 600,
    }  # fmt: skip
    again = recover_all(world.target | {"user": "flux_operator"}, specs, scope, Options())
    assert (again.outcome.rows_in, again.totals) == (0, result.totals)


def test_the_speed_is_limited_by_waiting(world: World) -> None:
    device = world.device("A", cadence_s=10)
    world.rows(world.source, device, count=3600, cadence_s=10)
    world.gap(device, START - timedelta(seconds=10), START + 10 * HOUR, 3600)
    now, waits = [0.0], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    throttle = Throttle(100, clock=lambda: now[0], sleep=sleep)
    assert world.recover(throttle=throttle, slice_rows=360).rows_new == 3600
    assert sum(waits) == pytest.approx(36)
    assert len(waits) >= 9


def test_it_stops_when_a_replica_is_too_far_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    device = world.device("A", cadence_s=10)
    world.rows(world.source, device, count=3600, cadence_s=10)
    world.gap(device, START - timedelta(seconds=10), START + 10 * HOUR, 3600)
    lags = iter([0, 5, 11])
    monkeypatch.setattr("stationkeeper.telemetry.backfill.engine.replication_lag", lambda _: next(lags))
    outcome = world.recover(max_lag_bytes=10, slice_rows=360)
    assert outcome.stopped == "a replica is 11 bytes behind, the limit is 10; run again when it has caught up"
    assert (outcome.rows_new, world.states()) == (720, ["open"])
    monkeypatch.undo()
    assert world.recover(max_lag_bytes=10, slice_rows=360).rows_in == 2880
    assert world.states() == ["recovered"]


@pytest.mark.criterion("GR-5")
def test_two_workers_never_overlap(world: World) -> None:
    devices = [world.device(f"D{number}", cadence_s=10) for number in range(12)]
    for device in devices:
        world.rows(world.source, device, count=720, cadence_s=10)
        world.gap(device, START - timedelta(seconds=10), START + 2 * HOUR, 720)
    outcomes = recover(
        world.target | {"user": "flux_operator"},
        lambda: [PostgresSource("second", world.source)],
        Options(claim_at_once=1, slice_rows=60),
        workers=4,
    )
    assert (outcomes.rows_in, outcomes.rows_new, outcomes.entries) == (8640, 8640, {"recovered": 12})
    overlaps = world.on(
        world.target,
        "SELECT count(*) FROM flux.mg_backfill_batch a JOIN flux.mg_backfill_batch b"
        " ON a.id < b.id AND a.device_id = b.device_id AND a.span && b.span",
    )
    assert overlaps == [(0,)]
    assert world.on(world.target, "SELECT max(attempts) FROM flux.mg_gap_ledger") == [(1,)]
    assert world.checksum(world.target) == world.checksum(world.source)


@pytest.mark.criterion("GR-5")
def test_a_worker_whose_lease_was_taken_over_stores_nothing_more(world: World) -> None:
    device = world.device("A", cadence_s=10)
    world.rows(world.source, device, count=3600, cadence_s=10)
    world.gap(device, START - timedelta(seconds=10), START + 10 * HOUR, 3600)
    calls = 0

    class Slow(PostgresSource):
        def fetch(self, *arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 4:
                take = "UPDATE flux.mg_gap_ledger SET attempts = attempts + 1, lease_owner = 'other'"
                world.on(world.target, take)
            return super().fetch(*arguments)

    with pytest.raises(TelemetryError, match="the lease of gap 1 ran out and another worker may have it"):
        world.recover(Slow("second", world.source), slice_rows=360)
    assert world.on(world.target, "SELECT state, lease_owner FROM flux.mg_gap_ledger") == [
        ("claimed", "other")
    ]
    assert world.checksum(world.target)[0] < 3600


def test_a_source_with_two_rows_of_one_moment_is_left_out(world: World) -> None:
    device = world.device("A", cadence_s=60)
    world.rows(world.source, device, count=60, cadence_s=60)
    world.on(world.source, "ALTER TABLE flux.mg_bess_readings DROP CONSTRAINT mg_bess_readings_pkey")
    world.on(
        world.source, "INSERT INTO flux.mg_bess_readings SELECT * FROM flux.mg_bess_readings WHERE seq = 7"
    )
    world.gap(device, START - timedelta(minutes=1), START + HOUR, 60)
    told = world.recover().failed_sources["second"]
    assert told.startswith("second has 1 times two rows of device")
    assert (world.checksum(world.target)[0], world.states()) == (0, ["open"])


def test_a_source_whose_rows_are_not_what_it_proved_is_left_out(world: World) -> None:
    device = world.device("A", cadence_s=60)
    world.rows(world.source, device, count=60, cadence_s=60)
    world.gap(device, START - timedelta(minutes=1), START + HOUR, 60)

    class Lying(PostgresSource):
        def fetch(self, *arguments: Any) -> Any:
            proof = super().fetch(*arguments)
            return {hour: replace(one, hash=one.hash ^ 1) for hour, one in proof.items()}

    told = world.recover(Lying("second", world.source)).failed_sources["second"]
    assert told.startswith("the hour 2026-01-05T00:00:00Z has 60 rows ")
    assert (world.checksum(world.target)[0], world.states()) == (0, ["open"])


@pytest.mark.criterion("GR-5")
def test_the_leases_of_waiting_entries_are_renewed_with_every_slice(world: World) -> None:
    for name in ("A", "B"):
        device = world.device(name, cadence_s=60)
        world.rows(world.source, device, count=120, cadence_s=60)
        world.gap(device, START - timedelta(minutes=1), START + 2 * HOUR, 120)
    far = "2100-01-01T00:00:00Z"
    left = []

    def between_slices(_: float) -> None:
        query = "SELECT count(*) FROM flux.mg_gap_ledger WHERE state = 'claimed' AND lease_until = %s"
        left.append(world.on(world.target, query, far)[0][0])
        world.on(world.target, "UPDATE flux.mg_gap_ledger SET lease_until = %s WHERE state = 'claimed'", far)

    throttle = Throttle(1, clock=lambda: 0.0, sleep=between_slices)
    assert world.recover(throttle=throttle, slice_rows=10).entries == {"recovered": 2}
    assert len(left) >= 24
    assert not any(left), "a lease was not renewed"
