"""Gaps that somebody can explain: the division of a gap, and reports of a real PostgreSQL."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from maintenance_database import create_all_tables
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import add_device, add_rows
from test_module_telemetry import run

from stationkeeper.controller.windows import Window, spans_between, zone_of
from stationkeeper.telemetry.explanations import Explanation, Gap, split, weekly_windows
from stationkeeper.telemetry.gaps import Report, find_gaps
from stationkeeper.telemetry.presentation import describe, site_states
from stationkeeper.telemetry.source import TelemetryError

# A Wednesday.
BASE = datetime(2026, 1, 14, 12, 0, tzinfo=UTC)
END = BASE + timedelta(hours=2)
SLACK = timedelta(seconds=30)


def minute(number: float) -> datetime:
    return BASE + timedelta(minutes=number)


def explanation(first: float, last: float, text: str = "work") -> Explanation:
    return Explanation("maintenance", minute(first), minute(last), text)


def pieces(gap: Gap, *explanations: Explanation) -> list[tuple[float, float, int, str | None]]:
    return [
        (
            (piece.start - BASE) / timedelta(minutes=1),
            (piece.end - BASE) / timedelta(minutes=1),
            piece.missing,
            piece.explanation.text if piece.explanation else None,
        )
        for piece in split(gap, explanations, slack=SLACK)
    ]


@pytest.mark.criterion("MT-5")
@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([], [(10, 31, 20, None)]),
        ([explanation(0, 60)], [(10, 31, 20, "work")]),
        ([explanation(40, 60)], [(10, 31, 20, None)]),
        # Ends where the gap begins: it explains nothing of it.
        ([explanation(0, 10)], [(10, 31, 20, None)]),
        ([explanation(0, 20)], [(10, 20, 10, "work"), (20, 31, 10, None)]),
        ([explanation(20, 60)], [(10, 20, 9, None), (20, 31, 11, "work")]),
        ([explanation(15, 20)], [(10, 15, 4, None), (15, 20, 6, "work"), (20, 31, 10, None)]),
        # Half a cadence beside the rows is jitter, more is not.
        ([explanation(11.4, 29.6)], [(10, 31, 20, "work")]),
        ([explanation(11.6, 31)], [(10, 11.6, 1, None), (11.6, 31, 19, "work")]),
        (
            [explanation(12, 15, "a"), explanation(14, 18, "b"), explanation(13, 14, "c")],
            [(10, 12, 1, None), (12, 15, 4, "a"), (15, 18, 3, "b"), (18, 31, 12, None)],
        ),
    ],
)
def test_a_gap_is_split_where_its_explanation_ends(
    known: list[Explanation], expected: list[tuple[float, float, int, str | None]]
) -> None:
    assert pieces(Gap(minute(10), minute(31), 20, False), *known) == expected


def test_pieces_always_add_up() -> None:
    chance = random.Random(6)
    for _ in range(2000):
        missing = chance.randint(0, 40)
        gap = Gap(
            minute(10), minute(11 + missing + chance.uniform(-0.4, 0.4)), missing, chance.random() < 0.5
        )
        known = []
        for _ in range(chance.randint(0, 5)):
            first = chance.uniform(0, 60)
            known.append(explanation(first, first + chance.choice([0, 0.1, 5, 30])))
        found = split(gap, known, slack=SLACK)
        assert sum(piece.missing for piece in found) == missing
        assert (found[0].start, found[-1].end) == (gap.start, gap.end)
        assert all(before.end == after.start for before, after in pairwise(found))
        assert all(piece.start <= piece.end for piece in found)
        assert [piece.open for piece in found] == [False] * (len(found) - 1) + [gap.open]
        for piece in found:
            # Whatever is called explained is one that overlaps the gap.
            assert piece.explanation is None or piece.explanation in known


def test_a_very_long_gap_of_a_fast_device_is_split_exactly() -> None:
    gap = Gap(BASE, BASE + timedelta(days=90), 90 * 86_400 - 1, True)
    known = Explanation("known_gap", BASE + timedelta(days=30), BASE + timedelta(days=60), "full")
    found = split(gap, [known], slack=timedelta(seconds=0.5))
    assert [piece.missing for piece in found] == [30 * 86_400 - 1, 30 * 86_400 + 1, 30 * 86_400 - 1]


@pytest.fixture
def connection(postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    """Two devices of WLCE that sent for two hours, but not from minute 30 to 60; one of HMCE likewise."""
    opened = create_all_tables(postgres_settings)
    times = [minute(number) for number in range(120) if not 30 <= number < 60]
    for name, kind in (("WLCE-BESS-01", "bess"), ("WLCE-METER-01", "meter"), ("HMCE-BESS-01", "bess")):
        device = add_device(opened, name, cadence_s=60, active_from=BASE, kind=kind, site=name[:4])
        add_rows(opened, device, times, kind=kind)
    yield opened
    opened.close()


def maintain(
    connection: Connection, first: float, until: float, ended: float | None = None, site: str = "WLCE"
) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO flux.mg_maintenance"
            " (site, started_at, planned_until, ended_at, reason, owner, run_id)"
            " VALUES (%s, %s, %s, %s, 'new fan', 'erika', 'run-1')",
            (site, minute(first), minute(until), None if ended is None else minute(ended)),
        )


def counts(report: Report, site: str = "WLCE") -> list[tuple[int, int, str]]:
    return [(one.missing, one.explained_missing, one.state) for one in report.of_site(site)]


@pytest.mark.criterion("MT-5")
def test_planned_maintenance_explains_the_gaps_of_its_site_and_shows_them(connection: Connection) -> None:
    maintain(connection, 29.5, 61)
    report = find_gaps(connection, BASE, END)
    assert counts(report) == [(0, 30, "explained")] * 2
    assert counts(report, "HMCE") == [(30, 0, "gaps")]
    assert (report.gaps, report.missing, report.explained_gaps, report.explained_missing) == (1, 30, 2, 60)
    table = describe(report)
    assert "about 30 missing, explained: planned maintenance: new fan (erika)" in table
    assert "1 gaps, about 30 rows missing; not counted: 2 explained gaps, about 60 rows missing" in table
    states = site_states(report, [])
    assert (states["WLCE"]["state"], states["HMCE"]["state"]) == ("ok", "failed")
    assert states["WLCE"]["message"] == (
        "2 devices without an open gap, 180 rows;"
        " explained: about 60 rows (planned maintenance: new fan (erika))"
    )
    (explained,) = report.as_dict()["devices"][1]["explained"]
    assert explained["explanation"] == {
        "kind": "maintenance",
        "from": "2026-01-14T12:29:30Z",
        "to": "2026-01-14T13:01:00Z",
        "text": "planned maintenance: new fan (erika)",
    }


@pytest.mark.criterion("MT-5", "MT-6")
@pytest.mark.parametrize(
    ("until", "ended"),
    # Ran out and was never ended, was ended long after its plan, was ended before its plan.
    [(50, None), (50, 115), (110, 50)],
)
def test_only_the_planned_part_is_explained(
    connection: Connection, until: float, ended: float | None
) -> None:
    maintain(connection, 29.5, until, ended)
    report = find_gaps(connection, BASE, END)
    # Minutes 30 to 50 and 51 to 59.
    assert counts(report) == [(9, 21, "gaps")] * 2
    (gap,) = report.of_site("WLCE")[0].gaps
    assert (gap.start, gap.end, gap.missing) == (minute(50), minute(60), 9)
    assert site_states(report, ["WLCE"])["WLCE"]["message"].startswith(
        "WLCE-BESS-01: about 9 of 120 rows missing in 1 gap; WLCE-METER-01: about 9"
    )


@pytest.mark.criterion("MT-5")
def test_known_gaps_explain_their_device_only(connection: Connection) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO flux.mg_known_gaps"
            " (device_id, boot_id, first_seq, last_seq, first_time, last_time, samples, reason)"
            " SELECT id, id, 31, 50, %s, %s, 20, 'the store was full' FROM flux.mg_device_registry"
            " WHERE name = 'WLCE-BESS-01'",
            (minute(30), minute(49)),
        )
    report = find_gaps(connection, BASE, END)
    assert counts(report) == [(10, 20, "gaps"), (30, 0, "gaps")]
    (gap,) = report.of_site("WLCE")[0].explained
    assert gap.explanation is not None
    assert gap.explanation.text == "the controller gave up 20 samples: the store was full"


@pytest.mark.criterion("MT-5")
def test_a_weekly_window_explains_in_its_own_time_zone(connection: Connection) -> None:
    window = {"name": "wash", "days": ["wednesday"], "start": "13:29", "end": "14:01"}
    rome = weekly_windows({"WLCE": [{**window, "time_zone": "Europe/Rome"}]})
    assert counts(find_gaps(connection, BASE, END, weekly=rome)) == [(0, 30, "explained")] * 2
    # The same hours of another zone lie an hour later.
    utc = weekly_windows({"WLCE": [window]})
    assert counts(find_gaps(connection, BASE, END, weekly=utc)) == [(30, 0, "gaps")] * 2


def test_a_silent_device_stays_silent_where_the_plan_ended(connection: Connection) -> None:
    add_device(connection, "LFCE-BESS-01", cadence_s=60, active_from=BASE, site="LFCE")
    maintain(connection, -60, 59.2, site="LFCE")
    report = find_gaps(connection, BASE, END)
    assert counts(report, "LFCE") == [(60, 60, "silent")]
    assert report.of_site("LFCE")[0].gaps[0].open
    message = site_states(report, [])["LFCE"]["message"]
    assert "silent, all 60 rows missing, the explained ones not counted" in message


@pytest.mark.parametrize(
    "windows", [{"WLCE": [{"name": "wash"}]}, {"WLCE": 5}, {"WLCE": ["wash"]}], ids=["part", "number", "text"]
)
def test_a_window_that_is_none_is_refused(windows: dict[str, Any]) -> None:
    with pytest.raises(TelemetryError, match="a weekly window cannot be understood"):
        weekly_windows(windows)


def test_openings_between_two_moments() -> None:
    window = Window("night", frozenset({0, 2}), time(22), time(4), zone_of("Europe/Rome"))
    spans = spans_between([window], BASE, BASE + timedelta(days=7))
    assert [(span.start, span.end) for span in spans] == [
        (datetime(2026, 1, 14, 21, tzinfo=UTC), datetime(2026, 1, 15, 3, tzinfo=UTC)),
        (datetime(2026, 1, 19, 21, tzinfo=UTC), datetime(2026, 1, 20, 3, tzinfo=UTC)),
    ]
    # One that is open at the beginning counts, one that ends there does not.
    inside = datetime(2026, 1, 15, 1, tzinfo=UTC)
    assert len(spans_between([window], inside, inside + timedelta(hours=1))) == 1
    after = datetime(2026, 1, 15, 3, tzinfo=UTC)
    assert spans_between([window], after, after + timedelta(hours=1)) == []


def test_the_module_returns_both(
    connection: Connection, postgres_settings: dict[str, Any], tmp_path: Path
) -> None:
    maintain(connection, 29.5, 50)
    arguments = {
        "database": {**postgres_settings, "user": "flux_reader"},
        "from": BASE.isoformat(),
        "to": END.isoformat(),
        "sites": ["WLCE"],
    }
    found = run(tmp_path, "telemetry_gaps", **arguments)
    assert (found["gaps"], found["missing"]) == (2, 18)
    assert (found["explained_gaps"], found["explained_missing"]) == (2, 42)
    assert found["sites"]["WLCE"]["state"] == "failed"
    window = {"name": "wash", "days": ["wednesday"], "start": "12:50", "end": "13:01"}
    every = run(tmp_path, "telemetry_gaps", **arguments, weekly_windows={"WLCE": [window]})
    assert (every["gaps"], every["explained_missing"]) == (0, 60)
    assert every["sites"]["WLCE"]["state"] == "ok"
    wrong = run(tmp_path, "telemetry_gaps", **arguments, weekly_windows={"WLCE": [{"name": "wash"}]})
    assert "a weekly window cannot be understood" in wrong["msg"]
