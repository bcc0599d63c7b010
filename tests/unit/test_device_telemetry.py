"""Registry against telemetry on a real PostgreSQL: who sends, who does not, what is kept of the retired."""

from __future__ import annotations

import csv
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from module_runner import run_module
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import add_device, add_rows, create_tables

from stationkeeper.devices.archive import archive
from stationkeeper.devices.telemetry import last_rows, strangers, wait_for_rows
from stationkeeper.registry import rows as registry
from stationkeeper.telemetry.source import TelemetryError

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=2)
NOBODY = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
def database(postgres_settings: dict[str, Any]) -> Any:
    connection = create_tables(postgres_settings)
    yield connection
    connection.close()


def minutes_ago(*minutes: float) -> list[datetime]:
    return [NOW - timedelta(minutes=count) for count in minutes]


@pytest.mark.criterion("DV-6")
def test_strangers_on_both_sides_are_reported(database: Connection) -> None:
    sending = add_device(database, "SENDS", cadence_s=60, active_from=LONG_AGO)
    add_device(database, "MUTE", cadence_s=60, active_from=LONG_AGO)
    # Not NOW: in a long run that is a while ago.
    add_device(database, "JUST-NOW", cadence_s=60, active_from=datetime.now(UTC))
    gone = add_device(
        database, "GONE", cadence_s=60, active_from=LONG_AGO, active_to=NOW - timedelta(minutes=30)
    )
    quiet = add_device(
        database, "QUIET", cadence_s=60, active_from=LONG_AGO, active_to=NOW - timedelta(minutes=30)
    )
    confused = add_device(database, "METER", cadence_s=60, active_from=LONG_AGO, kind="meter")
    add_rows(database, sending, minutes_ago(3, 2, 1))
    add_rows(database, gone, minutes_ago(40, 20))
    # What was on its way at the end of the service is no stranger.
    add_rows(database, quiet, minutes_ago(40, 29))
    add_rows(database, confused, minutes_ago(2), kind="meter")
    add_rows(database, confused, minutes_ago(2), kind="bess")
    add_rows(database, NOBODY, minutes_ago(5, 4), kind="meter")
    found = strangers(database, look_back=timedelta(days=7))
    assert [text.split(" sends ")[0] for text in found.unknown] == [
        "METER",
        f"{NOBODY} is not registered and",
    ]
    assert [text.split(" was ")[0] for text in found.retired] == ["GONE"]
    assert found.never == ("MUTE has never sent a row",)
    lately = strangers(database, look_back=datetime.now(UTC) - NOW + timedelta(minutes=3))
    assert [text.split(" sends ")[0] for text in lately.unknown] == ["METER"]
    assert lately.retired == ()


def test_rows_are_awaited_until_every_device_has_one(
    database: Connection, postgres_settings: dict[str, Any]
) -> None:
    one = add_device(database, "ONE", cadence_s=60, active_from=LONG_AGO)
    two = add_device(database, "TWO", cadence_s=60, active_from=LONG_AGO, kind="meter")
    add_rows(database, one, minutes_ago(60, 1))
    add_rows(database, two, minutes_ago(60), kind="meter")
    since, clock = NOW - timedelta(minutes=10), [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] == 3:
            add_rows(database, two, minutes_ago(2), kind="meter")

    def wait(wait_s: float) -> dict[str, datetime | None]:
        return wait_for_rows(
            postgres_settings, ["ONE", "TWO"], since, wait_s, now_s=lambda: clock[0], sleep=sleep
        )

    assert wait(2) == {"ONE": minutes_ago(1)[0], "TWO": minutes_ago(60)[0]}
    assert clock == [2.0]
    assert wait(100)["TWO"] == minutes_ago(2)[0]
    assert clock == [3.0]
    with pytest.raises(TelemetryError, match="no device THREE"):
        last_rows(database, ["ONE", "THREE"])


@pytest.mark.criterion("DV-5")
def test_history_is_archived_by_the_database_with_a_checksum_and_stays(
    database: Connection, postgres_settings: dict[str, Any], tmp_path: Path
) -> None:
    gone = add_device(database, "GONE", cadence_s=60, active_from=LONG_AGO, active_to=NOW)
    add_device(database, "SERVES", cadence_s=60, active_from=LONG_AGO)
    add_rows(database, gone, minutes_ago(1, 3, 2))
    add_rows(database, NOBODY, minutes_ago(1))
    directory = tmp_path / "archive"
    planned = archive(postgres_settings, "GONE", directory, dry_run=True)
    assert (planned.rows, planned.changed, directory.exists()) == (3, True, False)
    done = archive(postgres_settings, "GONE", directory)
    assert (done.rows, done.changed) == (3, True)
    with done.path.open() as stream:
        read = list(csv.DictReader(stream))
    assert [datetime.fromisoformat(row["time"]) for row in read] == minutes_ago(3, 2, 1)
    assert {row["device_id"] for row in read} == {gone}
    # A tool that this repository did not write agrees.
    check = ["sha256sum", "--check", "--strict", f"{done.path.name}.sha256"]
    assert subprocess.run(check, cwd=directory, check=False, capture_output=True).returncode == 0
    assert json.loads(done.path.with_suffix(".json").read_text())["name"] == "GONE"
    again = archive(postgres_settings, "GONE", directory)
    assert (again.changed, again.sha256) == (False, done.sha256)
    assert sorted(path.suffix for path in directory.iterdir()) == [".csv", ".json", ".sha256"]
    assert last_rows(database, ["GONE"])["GONE"] == minutes_ago(1)[0]
    for name, message in (("SERVES", "in service"), ("NOBODY", "none of this name")):
        with pytest.raises(TelemetryError, match=message):
            archive(postgres_settings, name, directory)


@pytest.mark.criterion("DV-4")
def test_the_row_carries_the_life_by_which_gaps_are_judged(database: Connection) -> None:
    device = {"name": "B", "type": "bess", "profile": "generic_battery", "cadence_s": 2}
    wanted = registry.from_station("flux", "wlce", "WLCE", [device])
    registry.write(database, registry.plan([], wanted))
    database.commit()
    (row,) = registry.read(database) or []
    assert row.cadence_s == 2
    assert row.active_from is not None
    assert abs(row.active_from - datetime.now(UTC)) < timedelta(minutes=5)
    assert row.active_to is None
    end = {**row.as_dict(), "active_to": (row.active_from + timedelta(hours=1)).isoformat()}
    registry.write(database, registry.plan([row], [registry.from_mapping(end)]))
    database.commit()
    (ended,) = registry.read(database) or []
    assert ended.active_to == row.active_from + timedelta(hours=1)
    assert (ended.id, ended.active_from, ended.cadence_s) == (row.id, row.active_from, row.cadence_s)


@pytest.mark.criterion("DV-7")
def test_a_batch_of_a_hundred_is_one_idempotent_run_of_the_modules(
    database: Connection, postgres_settings: dict[str, Any], tmp_path: Path
) -> None:
    def battery(number: int, **more: Any) -> dict[str, Any]:
        modbus = {"host": "192.0.2.21", "unit": number}
        values = {"rating_kw": 100, "capacity_kwh": 200, "cadence_s": 2, "modbus": modbus}
        return {"name": f"W-B{number}", "type": "bess", "profile": "generic_battery", **values, **more}

    first = registry.from_station("flux", "wlce", "WLCE", [battery(1)])
    registry.write(database, registry.plan([], first))
    database.commit()
    batch = [battery(number, writes_enabled=False) for number in range(2, 102)]
    question = {
        "database": postgres_settings,
        "system": "flux",
        "stations": {"wlce": {"site": "WLCE", "devices": [battery(1), *batch]}},
        "targets": ["wlce"],
        "intent": "add",
    }
    connection = {key: postgres_settings[key] for key in ("hosts", "port", "user", "password")}
    plan = run_module(tmp_path, "device_plan", question)["stations"]["wlce"]
    assert (plan["problems"], len(plan["rows"]), plan["changes"]) == ([], 100, True)
    writing = {
        "devices": plan["rows"], "complete": False, "database": postgres_settings["name"], **connection
    }  # fmt: skip
    assert len(run_module(tmp_path, "device_registry", writing, check=True)["inserted"]) == 100
    assert len(registry.read(database) or []) == 1
    database.rollback()
    assert len(run_module(tmp_path, "device_registry", writing)["inserted"]) == 100
    again = run_module(tmp_path, "device_registry", writing)
    assert (again["changed"], again["unchanged"], again["unlisted"]) == (False, 100, [])
    second = run_module(tmp_path, "device_plan", question)["stations"]["wlce"]
    assert (second["changes"], second["problems"], len(second["serving"])) == (False, [], 101)
    sent = run_module(
        tmp_path,
        "device_telemetry",
        {"database": postgres_settings, "devices": ["W-B2"], "since": "2026-01-01T00:00:00Z"},
    )
    assert sent["silent"] == ["W-B2"]
    refused = run_module(tmp_path, "device_plan", {**question, "intent": "remove"})
    assert "name the devices" in refused["msg"]
