"""The ledger of gaps on a real PostgreSQL: recording, claims, settling, totals."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ledger_database import create_ledger_tables
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import add_device, add_rows, create_tables

from stationkeeper.database.connection import connect
from stationkeeper.telemetry import ledger
from stationkeeper.telemetry.gaps import find_gaps
from stationkeeper.telemetry.ledger import Recorded
from stationkeeper.telemetry.source import TelemetryError

BASE = datetime(2025, 10, 26, 0, 0, tzinfo=UTC)
NOW = BASE + timedelta(days=1)


@pytest.fixture
def owner(postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    """The database's superuser, to store rows."""
    opened = create_ledger_tables(postgres_settings)
    yield opened
    opened.close()


@pytest.fixture
def operator(owner: Connection, postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    """The user of the runbooks, with its rights only."""
    opened = connect({**postgres_settings, "user": "flux_operator"})
    yield opened
    opened.close()


def minute(number: float) -> datetime:
    return BASE + timedelta(minutes=number)


def minutes(*ranges: tuple[int, int]) -> list[datetime]:
    return [minute(number) for first, last in ranges for number in range(first, last)]


def look(connection: Connection, first: float, last: float) -> Recorded:
    report = find_gaps(connection, minute(first), minute(last), settle_s=0)
    recorded = ledger.record(connection, report, NOW)
    assert ledger.foresee(connection, report) == Recorded()
    assert ledger.record(connection, report, NOW) == Recorded(), "the same report again changed something"
    return recorded


def entries(connection: Connection, *states: str) -> list[tuple[float, float, int, str]]:
    """Return the entries in order: from and to in minutes, expected, state."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT lower(span), upper(span), expected, state FROM flux.mg_gap_ledger"
            " WHERE state = ANY (%s) OR %s ORDER BY lower(span), id",
            (list(states), not states),
        )
        return [
            ((a - BASE) / timedelta(minutes=1), (b - BASE) / timedelta(minutes=1), n, state)
            for a, b, n, state in cursor.fetchall()
        ]


def device(connection: Connection, rows: Iterable[datetime], name: str = "WLCE-BESS-01", **more: Any) -> str:
    identifier = add_device(connection, name, cadence_s=60, active_from=BASE, **more)
    add_rows(connection, identifier, rows)
    return identifier


def test_a_gap_is_recorded_once_and_grows(owner: Connection, operator: Connection) -> None:
    one = device(owner, minutes((0, 30)))
    assert look(operator, 0, 40) == Recorded(new=1)
    assert entries(owner) == [(29, 40, 10, "open")]
    assert look(operator, 0, 60) == Recorded(extended=1)
    assert look(operator, 50, 70) == Recorded(extended=1)
    assert entries(owner) == [(29, 70, 40, "open")]
    # A look that starts in the middle finds only its own part, and does not cut the rest off.
    assert look(operator, 45, 60) == Recorded()
    add_rows(owner, one, minutes((80, 100)))
    assert look(operator, 0, 100) == Recorded(extended=1)
    assert entries(owner) == [(29, 80, 50, "open")]


def test_rows_that_come_by_themselves_reduce_and_close_a_gap(owner: Connection, operator: Connection) -> None:
    one = device(owner, minutes((0, 30), (60, 100)))
    look(operator, 0, 100)
    add_rows(owner, one, minutes((40, 45)))
    assert look(operator, 0, 100) == Recorded(reduced=1)
    assert entries(owner) == [(29, 40, 10, "open"), (44, 60, 15, "open")]
    add_rows(owner, one, minutes((30, 40)))
    assert look(operator, 0, 100) == Recorded(closed=1)
    add_rows(owner, one, minutes((45, 60)))
    assert look(operator, 20, 70) == Recorded(closed=1)
    with owner, owner.cursor() as cursor:
        cursor.execute(
            "SELECT state, recovered_rows, source, evidence->'closed'->>'rows', evidence->'closed'->>'at'"
            " FROM flux.mg_gap_ledger ORDER BY lower(span)"
        )
        assert cursor.fetchall() == [
            ("recovered", 10, "late rows", "10", "2025-10-27T00:00:00Z"),
            ("recovered", 15, "late rows", "15", "2025-10-27T00:00:00Z"),
        ]


def test_a_gap_between_two_rows_is_not_joined_to_its_neighbour(
    owner: Connection, operator: Connection
) -> None:
    device(owner, [*minutes((0, 10)), minute(20), *minutes((30, 40))])
    assert look(operator, 0, 40) == Recorded(new=2)
    assert entries(owner) == [(9, 20, 10, "open"), (20, 30, 9, "open")]


def test_maintenance_explains_and_stops_explaining(owner: Connection, operator: Connection) -> None:
    device(owner, minutes((0, 30), (60, 100)))
    look(operator, 0, 100)
    with owner, owner.cursor() as cursor:
        cursor.execute(
            "INSERT INTO flux.mg_maintenance (site, started_at, planned_until, reason, owner, run_id)"
            " VALUES ('WLCE', %s, %s, 'new fan', 'e', 'r')",
            (minute(20), minute(45)),
        )
    assert look(operator, 0, 100) == Recorded(reduced=1)
    assert entries(owner) == [(29, 45, 16, "explained"), (45, 60, 14, "open")]
    with owner, owner.cursor() as cursor:
        cursor.execute(
            "SELECT reason, evidence->'explanation'->>'kind' FROM flux.mg_gap_ledger WHERE reason <> ''"
        )
        assert cursor.fetchall() == [("planned maintenance: new fan (e)", "maintenance")]
        cursor.execute("UPDATE flux.mg_maintenance SET ended_at = %s", (minute(35),))
    assert look(operator, 0, 100) == Recorded(extended=1, reduced=1)
    assert entries(owner) == [(29, 35, 6, "explained"), (35, 60, 24, "open")]


def test_what_retention_dropped_is_expired(owner: Connection, operator: Connection) -> None:
    device(owner, minutes((60, 100)))
    look(operator, 0, 100)
    assert entries(owner) == [(-1, 60, 60, "open")]
    with owner, owner.cursor() as cursor:
        cursor.execute("INSERT INTO ops.retention VALUES ('flux.mg_bess_readings', %s)", (minute(40),))
    look(operator, 0, 100)
    assert entries(owner) == [(-1, 40, 41, "expired"), (40, 60, 19, "open")]
    with owner, owner.cursor() as cursor:
        cursor.execute("UPDATE ops.retention SET dropped_before = %s", (minute(60),))
    look(operator, 0, 100)
    assert entries(owner) == [(-1, 40, 41, "expired"), (40, 60, 19, "expired")]


def test_a_claimed_gap_is_left_to_its_worker(owner: Connection, operator: Connection) -> None:
    one = device(owner, minutes((0, 30), (60, 100)))
    look(operator, 0, 100)
    (held,) = ledger.claim(operator, "worker", lease_s=60, limit=5)
    add_rows(owner, one, minutes((40, 45)))
    assert look(operator, 0, 100) == Recorded()
    with operator, operator.cursor() as cursor:
        ledger.settle(cursor, held, state="partial", recovered_rows=5, source="test", evidence={"a": 1})
    assert look(operator, 0, 100) == Recorded(new=2)
    assert entries(owner, "open") == [(29, 40, 10, "open"), (44, 60, 15, "open")]


@pytest.mark.criterion("GR-5")
def test_two_workers_never_hold_the_same_gap(
    owner: Connection, operator: Connection, postgres_settings: dict[str, Any]
) -> None:
    device(owner, minutes(*((start, start + 2) for start in range(0, 800, 4))))
    look(operator, 0, 800)
    assert len(entries(owner, "open")) == 200
    taken: dict[str, list[int]] = {"one": [], "two": []}
    start = threading.Barrier(2)

    def work(name: str) -> None:
        connection = connect({**postgres_settings, "user": "flux_operator"})
        start.wait()
        while found := ledger.claim(connection, name, lease_s=600, limit=3):
            taken[name] += [entry.id for entry in found]
        connection.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*taken["one"], *taken["two"]}) == len(taken["one"]) + len(taken["two"]) == 200


@pytest.mark.criterion("GR-5")
def test_a_gap_that_another_session_claims_is_passed_over(
    owner: Connection, operator: Connection, postgres_settings: dict[str, Any]
) -> None:
    """Whatever the threads above did at the same moment: here the claims do overlap."""
    device(owner, minutes((0, 10), (20, 30), (40, 50)))
    look(operator, 0, 50)
    other = connect({**postgres_settings, "user": "flux_operator"})
    with other.cursor() as cursor:
        cursor.execute("SELECT id FROM flux.mg_gap_ledger ORDER BY upper(span) DESC LIMIT 1 FOR UPDATE")
        (newest,) = cursor.fetchone() or (None,)
        assert [entry.id for entry in ledger.claim(operator, "one", lease_s=60, limit=2)] != [newest]
        assert ledger.claim(operator, "one", lease_s=60, limit=2) == []
    other.rollback()
    assert [entry.id for entry in ledger.claim(other, "two", lease_s=60, limit=2)] == [newest]
    other.close()


@pytest.mark.criterion("GR-5")
def test_a_lease_that_ran_out_is_taken_over_and_its_first_owner_loses(
    owner: Connection, operator: Connection
) -> None:
    device(owner, minutes((0, 30), (60, 100)))
    look(operator, 0, 100)
    (first,) = ledger.claim(operator, "one", lease_s=60, limit=1)
    assert ledger.claim(operator, "two", lease_s=60, limit=1) == []
    with operator, operator.cursor() as cursor:
        ledger.renew(cursor, first, lease_s=0)
    (second,) = ledger.claim(operator, "two", lease_s=60, limit=1)
    assert (second.id, second.attempts) == (first.id, 2)
    for late in (ledger.renew, ledger.settle):
        words = {"lease_s": 60} if late is ledger.renew else {"state": "recovered", "recovered_rows": 9}
        with pytest.raises(TelemetryError, match="lease of gap"), operator, operator.cursor() as cursor:
            late(cursor, first, **words)  # type: ignore[operator]
    ledger.release(operator, [first])
    assert [state for *_, state in entries(owner)] == ["claimed"]
    ledger.release(operator, [second])
    assert [state for *_, state in entries(owner)] == ["open"]


def test_claims_go_newest_first_and_by_site(owner: Connection, operator: Connection) -> None:
    device(owner, minutes((0, 10), (20, 30), (40, 50)))
    device(owner, minutes((0, 10), (15, 50)), name="HMCE-BESS-01", site="HMCE")
    look(operator, 0, 50)
    (hmce,) = ledger.claim(operator, "one", lease_s=60, limit=9, sites=["HMCE"])
    assert hmce.expected == 5
    (newest,) = ledger.claim(operator, "one", lease_s=60, limit=1)
    assert newest.end == minute(40)
    assert ledger.claim(operator, "one", lease_s=60, limit=9, newest_first=False)[0].end == minute(20)
    ledger.release(operator, [hmce, newest])
    assert [e.id for e in ledger.claim(operator, "one", lease_s=60, limit=9, seen=[hmce.id])] == [newest.id]


@pytest.mark.criterion("GR-12")
def test_what_cannot_be_recovered_is_explained_with_a_reason(owner: Connection, operator: Connection) -> None:
    device(owner, minutes((0, 30), (60, 100)))
    look(operator, 0, 100)
    (held,) = ledger.claim(operator, "one", lease_s=60, limit=1)
    for state, reason, words in (
        ("unrecoverable", " ", "without a reason"),
        ("lost", "x", "cannot be left as"),
    ):
        with pytest.raises(TelemetryError, match=words), operator, operator.cursor() as cursor:
            ledger.settle(cursor, held, state=state, recovered_rows=0, reason=reason)
    with operator, operator.cursor() as cursor:
        ledger.settle(cursor, held, state="unrecoverable", recovered_rows=0, reason="the buffer was lost")
    report = find_gaps(operator, minute(0), minute(100), settle_s=0)
    assert (report.gaps, report.explained_missing) == (0, 30)
    (gap,) = report.devices[0].explained
    assert gap.explanation is not None
    assert (gap.explanation.kind, gap.explanation.text) == ("unrecoverable", "the buffer was lost")
    assert ledger.record(operator, report, NOW) == Recorded()
    found = ledger.totals(operator, minute(0), minute(100), settle_s=0)
    assert found.as_dict() == {
        "expected": 100,
        "present": 70,
        "recovered": 0,
        "explained": 30,
        "open": 0,
        "nominal": 100,
    }


@pytest.mark.criterion("GR-12")
def test_totals_add_up_at_every_step(owner: Connection, operator: Connection) -> None:
    one = device(owner, minutes((0, 30), (60, 100), (120, 200)))
    device(owner, [], name="WLCE-BESS-02")
    steps: list[dict[str, int]] = []

    def step() -> None:
        look(operator, 0, 200)
        found = ledger.totals(operator, minute(0), minute(200), settle_s=0)
        sums = found.as_dict()
        assert sums["expected"] == sums["present"] + sums["recovered"] + sums["explained"] + sums["open"]
        assert sums["expected"] == sums["nominal"] == 400
        with owner, owner.cursor() as cursor:
            # What the ledger holds is what the sweep finds.
            cursor.execute(
                "SELECT coalesce(sum(expected), 0) FROM flux.mg_gap_ledger WHERE state IN ('open', 'claimed')"
            )
            assert cursor.fetchone() == (sums["open"],)
        steps.append(
            {state: number for state, number in sums.items() if state not in {"expected", "nominal"}}
        )

    step()
    add_rows(owner, one, minutes((30, 60)))
    with owner, owner.cursor() as cursor:
        cursor.execute(
            "INSERT INTO flux.mg_backfill_batch (id, device_id, span, source, rows_in, rows_new, hash)"
            " VALUES (gen_random_uuid(), %s, tstzrange(%s, %s), 'test', 30, 30, '')",
            (one, minute(29), minute(60)),
        )
    step()
    with owner, owner.cursor() as cursor:
        cursor.execute(
            "INSERT INTO flux.mg_maintenance (site, started_at, planned_until, reason, owner, run_id)"
            " VALUES ('WLCE', %s, %s, 'new fan', 'e', 'r')",
            (minute(100), minute(110)),
        )
    step()
    assert steps == [
        {"present": 150, "recovered": 0, "explained": 0, "open": 250},
        {"present": 150, "recovered": 30, "explained": 0, "open": 220},
        {"present": 150, "recovered": 30, "explained": 22, "open": 198},
    ]
    # Only what lies in the window counts as recovered.
    assert ledger.totals(operator, minute(50), minute(100), settle_s=0).of("recovered") == 10


def test_a_database_without_the_ledger_says_so(postgres_settings: dict[str, Any]) -> None:
    connection = create_tables(postgres_settings)
    add_device(connection, "A", cadence_s=60, active_from=BASE)
    report = find_gaps(connection, minute(0), minute(10), settle_s=0)
    with pytest.raises(TelemetryError, match="mg_gap_ledger does not exist: run the migrations first"):
        ledger.record(connection, report, NOW)
    with pytest.raises(TelemetryError, match="run the migrations first"):
        ledger.claim(connection, "one", lease_s=1, limit=1)


def test_the_watermark_moves_only_where_nothing_was_left_out(owner: Connection, operator: Connection) -> None:
    device(owner, minutes((0, 100)))

    def verified() -> list[float]:
        with owner, owner.cursor() as cursor:
            cursor.execute("SELECT verified_until FROM flux.mg_coverage_state")
            return [(until - BASE) / timedelta(minutes=1) for (until,) in cursor.fetchall()]

    look(operator, 10, 20)
    assert verified() == []
    look(operator, -10, 20)
    assert verified() == [20]
    look(operator, 30, 40)
    assert verified() == [20]
    look(operator, 15, 40)
    assert verified() == [40]
    look(operator, 0, 30)
    assert verified() == [40]


def test_a_reader_may_not_record(owner: Connection, postgres_settings: dict[str, Any]) -> None:
    device(owner, minutes((0, 10)))
    reader = connect({**postgres_settings, "user": "flux_reader"})
    report = find_gaps(reader, minute(0), minute(20), settle_s=0)
    assert ledger.foresee(reader, report) == Recorded(new=1)
    with pytest.raises(TelemetryError, match="may not do that"):
        ledger.record(reader, report, NOW)
    reader.close()
