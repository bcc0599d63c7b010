"""The command `stationkeeper gaps` with the ledger, the hourly coverage and the quarantine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ledger_database import create_ledger_tables
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import add_device, add_rows

from stationkeeper.telemetry.command import run

BASE = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW = ["--from", "2026-01-01T00:00:00Z", "--to", "2026-01-01T06:00:00Z"]


@pytest.fixture
def connection(postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    """A battery with a gap of ten rows, without any value."""
    opened = create_ledger_tables(postgres_settings)
    device = add_device(opened, "WLCE-BESS-01", cadence_s=60, active_from=BASE)
    add_rows(opened, device, [BASE + timedelta(minutes=n) for n in range(360) if not 30 <= n < 40])
    yield opened
    opened.close()


@pytest.fixture
def file(postgres_settings: dict[str, Any], tmp_path: Path) -> list[str]:
    path = tmp_path / "database.json"
    path.write_text(json.dumps({**postgres_settings, "user": "flux_operator"}))
    path.chmod(0o600)
    return ["--database-file", str(path)]


def counts(connection: Connection) -> dict[str, int]:
    found = {}
    with connection, connection.cursor() as cursor:
        for table in ("mg_gap_ledger", "mg_coverage_state", "mg_coverage_hourly", "mg_quarantine"):
            cursor.execute(f"SELECT count(*) FROM flux.{table}")
            ((found[table],),) = cursor.fetchall()
    return found


def test_a_look_writes_nothing_and_a_record_once(
    connection: Connection, file: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*WINDOW, *file, "--json"]) == 1
    assert not any(counts(connection).values())
    plain = json.loads(capsys.readouterr().out)
    assert run([*WINDOW, *file, "--record"]) == 1
    assert "Ledger: 1 new, 0 explained, 0 extended, 0 reduced, 0 closed" in capsys.readouterr().out
    assert run([*WINDOW, *file, "--record", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        **plain,
        "recorded": {"new": 0, "explained": 0, "extended": 0, "reduced": 0, "closed": 0},
    }
    assert counts(connection)["mg_gap_ledger"] == counts(connection)["mg_coverage_state"] == 1


def test_hours_give_the_same_answer(
    connection: Connection, file: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*WINDOW, *file, "--json"]) == 1
    swept = capsys.readouterr().out
    assert run(["refresh", *WINDOW, *file]) == 0
    assert capsys.readouterr().out == "6 hours new or changed\n"
    assert run(["refresh", *WINDOW, *file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hours"] == 0
    assert run([*WINDOW, *file, "--json", "--by-hours"]) == 1
    assert capsys.readouterr().out == swept


def test_kinds_are_told_apart_and_copied_when_asked(
    connection: Connection, file: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE flux.mg_bess_readings SET soe_percent = 200 WHERE time = %s", (BASE + timedelta(hours=1),)
        )
    assert run([*WINDOW, *file, "--kinds", "stale,impossible"]) == 1
    out = capsys.readouterr().out
    assert (
        "WLCE-BESS-01: impossible, 2026-01-01 01:00:00 to 2026-01-01 01:00:00, 1 row: soe_percent 200" in out
    )
    assert run([*WINDOW, *file, "--kinds", "lacking,impossible", "--quarantine", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert [(one["kind"], one["rows"]) for one in data["findings"]] == [("lacking", 350), ("impossible", 1)]
    assert data["quarantined"] == counts(connection)["mg_quarantine"] == 1


def test_what_is_new_needs_no_window(
    connection: Connection, file: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE flux.mg_device_registry SET active_to = %s", (BASE + timedelta(hours=6),))
    assert run(["--incremental", *file, "--record", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["recorded"]["new"] == 1
    assert run(["--incremental", *file]) == 0
    assert "1 earlier gaps looked at again" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [[], [*WINDOW, "--incremental"], WINDOW[:2], [*WINDOW, "--quarantine"], [*WINDOW, "--kinds", "odd"]],
)
def test_contradictions_are_refused(
    connection: Connection, file: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run([*arguments, *file, "--record"]) == 2
    assert capsys.readouterr().err.startswith("stationkeeper gaps: ")
    assert not any(counts(connection).values())
