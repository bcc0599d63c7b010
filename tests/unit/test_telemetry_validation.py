"""Frozen values, lacking metrics and impossible rows, each planted into rows that are good."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ledger_database import create_ledger_tables
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import add_device

from stationkeeper.database.connection import connect
from stationkeeper.profiles import load_profile
from stationkeeper.telemetry import validation
from stationkeeper.telemetry.limits import ranges, required
from stationkeeper.telemetry.quarantine import quarantine
from stationkeeper.telemetry.source import TelemetryError
from stationkeeper.telemetry.validation import Finding, validate

BASE = datetime(2026, 1, 1, tzinfo=UTC)
END = BASE + timedelta(hours=2)


@pytest.fixture
def connection(postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    """A battery and a meter with two good hours."""
    opened = create_ledger_tables(postgres_settings)
    for name, kind in (("A-BESS", "bess"), ("A-METER", "meter")):
        add_device(opened, name, cadence_s=60, active_from=BASE, kind=kind)
    with opened, opened.cursor() as cursor:
        cursor.execute(
            "INSERT INTO flux.mg_bess_readings SELECT %s::timestamptz + n * interval '1 min', id,"
            " '00000000-0000-0000-0000-000000000001', n, 1000 + n, 10, 10, 50, 230, 50, 25, 2, 0, 'ok'"
            " FROM flux.mg_device_registry, generate_series(0, 119) n WHERE type = 'bess'",
            (BASE,),
        )
        cursor.execute(
            "INSERT INTO flux.mg_meter_readings SELECT %s::timestamptz + n * interval '1 min', id,"
            " '00000000-0000-0000-0000-000000000001', n, 5 * n, -10, 230, 50, n, 0, 'ok'"
            " FROM flux.mg_device_registry, generate_series(0, 119) n WHERE type = 'meter'",
            (BASE,),
        )
    yield opened
    opened.close()


def plant(connection: Connection, table: str, change: str, first: int, last: int) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE flux.mg_{table}_readings SET {change} WHERE time >= %s AND time < %s",
            (BASE + timedelta(minutes=first), BASE + timedelta(minutes=last)),
        )


def brief(found: list[Finding]) -> list[tuple[str, str, float, float, int, str]]:
    minute = timedelta(minutes=1)
    return [
        (one.kind, one.device, (one.start - BASE) / minute, (one.end - BASE) / minute, one.rows, one.reason)
        for one in found
    ]


def test_good_rows_are_no_finding(connection: Connection) -> None:
    assert validate(connection, BASE, END) == []


def test_frozen_counters_are_found_as_stretches(connection: Connection) -> None:
    plant(connection, "bess", "heartbeat = 7", 10, 30)
    plant(connection, "meter", "seq = 3", 50, 55)
    # Four rows are fewer than five, and another run of the controller begins anew.
    plant(connection, "meter", "heartbeat = 3", 70, 74)
    plant(connection, "bess", "heartbeat = 9", 60, 66)
    plant(connection, "bess", "boot_id = gen_random_uuid()", 63, 64)
    assert brief(validate(connection, BASE, END)) == [
        ("stale", "A-BESS", 10, 29, 20, "heartbeat stands still at 7"),
        ("stale", "A-METER", 50, 54, 5, "seq stands still at 3"),
    ]
    assert len(validate(connection, BASE, END, stale_rows=4)) == 3
    assert validate(connection, BASE, END, kinds=["impossible"]) == []


def test_lacking_metrics_are_told_by_name(connection: Connection) -> None:
    plant(connection, "bess", "power_kw = NULL", 5, 8)
    plant(connection, "bess", "status = NULL", 7, 8)
    plant(connection, "bess", "temperature_c = NULL", 20, 30)  # a device may have no such sensor
    plant(connection, "meter", "energy_import_kwh = NULL", 119, 120)
    assert brief(validate(connection, BASE, END)) == [
        ("lacking", "A-BESS", 5, 6, 2, "without power_kw"),
        ("lacking", "A-BESS", 7, 7, 1, "without power_kw, status"),
        ("lacking", "A-METER", 119, 119, 1, "without energy_import_kwh"),
    ]


def test_impossible_rows_are_copied_and_stay(
    connection: Connection, postgres_settings: dict[str, Any]
) -> None:
    plant(connection, "bess", "soe_percent = 101, power_kw = 150", 3, 4)
    plant(connection, "bess", "power_kw = 'NaN'", 5, 6)
    plant(connection, "meter", "frequency_hz = '-infinity', voltage_v = 0", 8, 9)
    operator = connect({**postgres_settings, "user": "flux_operator"})
    found = validate(operator, BASE, END)
    assert brief(found) == [
        ("impossible", "A-BESS", 3, 3, 1, "soe_percent 101 is outside of 0 to 100"),
        ("impossible", "A-BESS", 5, 5, 1, "power_kw NaN is outside of -150 to 150"),
        ("impossible", "A-METER", 8, 8, 1, "frequency_hz -Infinity is outside of 40 to 70"),
    ]
    assert quarantine(operator, found, check=True) == 3
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM flux.mg_quarantine")
        assert cursor.fetchone() == (0,)
    assert quarantine(operator, found) == 3
    assert quarantine(operator, found) == 0
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT kind, row->>'soe_percent', row->>'seq', reason, resolved_at FROM flux.mg_quarantine"
            " ORDER BY time LIMIT 1"
        )
        assert cursor.fetchall() == [
            ("impossible", "101", "3", "soe_percent 101 is outside of 0 to 100", None)
        ]
        cursor.execute(
            "SELECT (SELECT count(*) FROM flux.mg_bess_readings), count(*) FROM flux.mg_meter_readings"
        )
        assert cursor.fetchone() == (120, 120)
    operator.close()


def test_rows_from_the_future_are_found_outside_of_any_window(connection: Connection) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO flux.mg_meter_readings (device_id, time) SELECT id, now() + interval '3 days'"
            " FROM flux.mg_device_registry WHERE type = 'meter'"
        )
    (one,) = validate(connection, BASE, END)
    assert (one.kind, one.device, one.reason) == ("future", "A-METER", "stamped after the moment it was read")
    assert quarantine(connection, [one]) == 1


def test_the_registry_has_the_last_word_on_limits(connection: Connection) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE flux.mg_device_registry SET metadata = %s WHERE type = 'bess'",
            (json.dumps({"rating_kw": 5, "limits": {"soe_percent": [60, 90]}}),),
        )
    assert {one.reason for one in validate(connection, BASE, END)} == {
        "power_kw 10 is outside of -7.5 to 7.5, setpoint_kw 10 is outside of -7.5 to 7.5,"
        " soe_percent 50 is outside of 60 to 90"
    }


@pytest.mark.parametrize(
    "limits", [[1, 2], {"soe_percent": [2, 1]}, {"soe_percent": ["0", 1]}, {"soe_percent": 5}]
)
def test_limits_that_are_none_are_refused(limits: Any) -> None:
    with pytest.raises(TelemetryError, match=r"write it as .*\[?smallest, largest\]?"):
        ranges(load_profile("generic_battery"), {"limits": limits})


def test_what_a_profile_asks_for() -> None:
    profile = load_profile("generic_battery")
    assert required(profile) == ["heartbeat", "power_kw", "setpoint_kw", "status", "alarms"]
    assert ranges(profile, {})["power_kw"] == (-150, 150)
    assert "energy_import_kwh" not in ranges(profile, {})


def test_bad_questions_are_refused(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TelemetryError, match="no kind frozen; kinds are stale, lacking, impossible, future"):
        validate(connection, BASE, END, kinds=["frozen"])
    with pytest.raises(TelemetryError, match="it takes two rows"):
        validate(connection, BASE, END, stale_rows=1)
    with pytest.raises(TelemetryError, match="has no offset"):
        validate(connection, datetime(2026, 1, 1), END)  # noqa: DTZ001 (that is the point)
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE flux.mg_device_registry SET profile = 'unknown' WHERE type = 'meter'")
    with pytest.raises(TelemetryError, match="device A-METER: no profile 'unknown'"):
        validate(connection, BASE, END)


def test_more_impossible_rows_than_anybody_reads_are_cut(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "MAX_ROWS", 10)
    plant(connection, "bess", "soe_percent = 101", 0, 50)
    assert len(validate(connection, BASE, END)) == 10
