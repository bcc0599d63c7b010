"""Records of planned maintenance: the decision, the rows of a real PostgreSQL, and the module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from maintenance_database import create_all_tables
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import add_device, create_tables
from test_module_telemetry import run

from stationkeeper.telemetry.maintenance import Maintenance, Step, Wish, begin, end, plan_begin, query
from stationkeeper.telemetry.source import TelemetryError, connected

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)
WISH = Wish("WLCE", NOW + HOUR, "new fan", "erika@control", "run-1")
OPEN = Maintenance(1, "WLCE", NOW - HOUR, NOW + HOUR, None, "new fan", "erika@control", "run-0")


@pytest.fixture
def connection(postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    opened = create_all_tables(postgres_settings)
    for site in ("WLCE", "HMCE"):
        add_device(opened, f"{site}-BESS-01", cadence_s=60, active_from=NOW - timedelta(days=1), site=site)
    yield opened
    opened.close()


def rows(connection: Connection) -> list[tuple[Any, ...]]:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT site, reason, owner, run_id, ended_at FROM flux.mg_maintenance ORDER BY id")
        return cursor.fetchall()


@pytest.mark.criterion("MT-6")
def test_a_plan_that_ran_out_is_never_prolonged_afterwards() -> None:
    overdue = replace(OPEN, planned_until=NOW - timedelta(minutes=10))
    step = plan_begin(WISH, overdue, None, NOW)
    assert step.end_open_at == overdue.planned_until
    assert step.insert is not None
    assert step.insert.started_at == NOW
    # The station's order keeps its first beginning; the ten minutes stay unplanned all the same.
    assert plan_begin(replace(WISH, since=OPEN.started_at), overdue, None, NOW) == step
    # A repeated run with the same end changes nothing.
    assert plan_begin(replace(WISH, planned_until=overdue.planned_until), overdue, None, NOW) == Step()


def test_a_plan_in_force_gets_a_new_end_and_keeps_its_beginning() -> None:
    assert plan_begin(WISH, OPEN, None, NOW) == Step()
    later = plan_begin(replace(WISH, planned_until=NOW + 2 * HOUR), OPEN, None, NOW).replace
    assert later is not None
    assert (later.id, later.started_at, later.planned_until) == (1, OPEN.started_at, NOW + 2 * HOUR)
    assert later.run_id == "run-1"
    with pytest.raises(TelemetryError, match="cannot end in the past"):
        plan_begin(replace(WISH, planned_until=NOW), OPEN, None, NOW)


def test_a_late_record_begins_when_the_order_did_but_not_in_recorded_time() -> None:
    def start(since: datetime, last_end: datetime | None) -> datetime:
        row = plan_begin(replace(WISH, since=since), None, last_end, NOW).insert
        assert row is not None
        return row.started_at

    assert start(NOW - HOUR, None) == NOW - HOUR
    assert start(NOW + HOUR / 2, None) == NOW
    assert start(NOW - HOUR, NOW - HOUR / 2) == NOW - HOUR / 2
    assert start(NOW - HOUR / 2, NOW - HOUR) == NOW - HOUR / 2
    with pytest.raises(TelemetryError, match="before it begins"):
        plan_begin(replace(WISH, planned_until=NOW), None, None, NOW)


def test_begin_and_end_are_recorded_once(connection: Connection) -> None:
    foreseen = begin(connection, WISH, check=True)
    assert foreseen.changed
    assert foreseen.after is not None
    assert foreseen.after.id is None
    assert rows(connection) == []
    begun = begin(connection, WISH)
    assert begun.changed
    assert begun.after == query(connection, "WLCE").after
    assert not begin(connection, WISH).changed
    assert begin(connection, replace(WISH, planned_until=NOW + 2 * HOUR)).changed
    assert begin(connection, replace(WISH, site="HMCE")).changed
    assert [row[0] for row in rows(connection)] == ["WLCE", "HMCE"]
    assert end(connection, "WLCE", check=True).changed
    assert rows(connection)[0][-1] is None
    assert end(connection, "WLCE").changed
    assert not end(connection, "WLCE").changed
    assert query(connection, "WLCE").after is None
    assert rows(connection)[0][-1] is not None
    assert query(connection, "HMCE").after is not None


def test_an_overdue_row_is_ended_at_its_plan(connection: Connection) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO flux.mg_maintenance (site, started_at, planned_until, reason, owner, run_id)"
            " VALUES ('WLCE', %s, %s, 'new fan', 'erika', 'run-0')",
            (NOW - 2 * HOUR, NOW - HOUR),
        )
    begin(connection, WISH)
    assert [row[-1] for row in rows(connection)] == [NOW - HOUR, None]


def test_what_cannot_be_recorded_is_refused(
    connection: Connection, postgres_settings: dict[str, Any]
) -> None:
    for wish, words in (
        (replace(WISH, site="XXXX"), "no device of site XXXX"),
        (replace(WISH, reason=" "), "needs a reason"),
        (replace(WISH, owner=""), "needs an owner"),
    ):
        with pytest.raises(TelemetryError, match=words):
            begin(connection, wish)
    with (
        connected({**postgres_settings, "user": "flux_reader"}) as reader,
        pytest.raises(TelemetryError, match="may not do that"),
    ):
        begin(reader, WISH)
    assert rows(connection) == []


def test_the_operator_may_write_and_one_plan_is_open_at_a_time(
    connection: Connection, postgres_settings: dict[str, Any]
) -> None:
    with connected({**postgres_settings, "user": "flux_operator"}) as operator:
        assert begin(operator, WISH).changed
        with operator.cursor() as cursor, pytest.raises(psycopg2.errors.UniqueViolation):
            cursor.execute(
                "INSERT INTO flux.mg_maintenance (site, started_at, planned_until, reason, owner, run_id)"
                " SELECT site, started_at, planned_until, reason, owner, run_id FROM flux.mg_maintenance"
            )


def test_a_database_without_the_table_says_what_to_do(postgres_settings: dict[str, Any]) -> None:
    with pytest.raises(TelemetryError, match="run the migrations"):
        query(create_tables(postgres_settings), "WLCE")


def test_the_module(connection: Connection, postgres_settings: dict[str, Any], tmp_path: Path) -> None:
    place: dict[str, Any] = {"database": {**postgres_settings, "user": "flux_operator"}, "site": "WLCE"}
    wish: dict[str, Any] = {
        "planned_until": (NOW + HOUR).isoformat(),
        "reason": "new fan",
        "owner": "e",
        "run_id": "r",
    }
    foreseen = run(tmp_path, "maintenance_record", check=True, **place, **wish)
    assert (foreseen["changed"], foreseen["present"], foreseen["record"]["id"]) == (True, True, None)
    assert rows(connection) == []
    begun = run(tmp_path, "maintenance_record", **place, **wish, since=(NOW - HOUR).isoformat())
    assert begun["changed"]
    assert begun["record"]["started_at"] == (NOW - HOUR).isoformat().replace("+00:00", "Z")
    assert begun["diff"]["before"] == {}
    assert not run(tmp_path, "maintenance_record", **place, **wish)["changed"]
    asked = run(tmp_path, "maintenance_record", **place, state="query")
    assert (asked["changed"], asked["record"]) == (False, begun["record"])
    ended = run(tmp_path, "maintenance_record", **place, state="ended")
    assert (ended["changed"], ended["present"], ended["before"]) == (True, False, begun["record"])
    for arguments, words in (
        ({**place, "state": "begun"}, "missing: planned_until, reason, owner, run_id"),
        ({**place, **wish, "planned_until": "2026-03-29T14:00:00"}, "has no offset from UTC"),
        ({**place, **wish, "database": {**place["database"], "port": 9}}, "the database cannot be reached"),
    ):
        result = run(tmp_path, "maintenance_record", **arguments)
        assert result["failed"], arguments
        assert words in result["msg"].replace("are missing", "missing")
