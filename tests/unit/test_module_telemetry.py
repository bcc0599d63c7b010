"""The telemetry modules, run by Ansible itself on the control node."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ledger_database import create_ledger_tables
from module_runner import PACKAGE, run_module
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import add_device, add_rows, create_tables

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def connection(postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    opened = create_tables(postgres_settings)
    yield opened
    opened.close()


def run(
    folder: Path, module: str, check: bool = False, package: Path = PACKAGE, **arguments: Any
) -> dict[str, Any]:
    """Run a module once on this machine and return its result."""
    hidden = (arguments.get("database") or {}).get("password")
    return run_module(folder, module, arguments, check=check, package=package, hidden=hidden)


@pytest.mark.parametrize("module", ["device_telemetry", "telemetry_freshness"])
def test_without_the_package_the_error_names_it_and_hides_the_password(module: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken/stationkeeper/__init__.py"
    broken.parent.mkdir(parents=True)
    broken.write_text("raise ImportError('no such package')")
    database = {"hosts": ["127.0.0.1"], "name": "flux", "user": "flux_reader", "password": "tell-nobody"}
    result = run(tmp_path, module, package=tmp_path / "broken", database=database)
    assert "make setup" in result["msg"]
    assert result["invocation"]["module_args"]["database"]["user"] == "flux_reader"


def test_gaps_are_a_result_in_both_modes(
    connection: Connection, postgres_settings: dict[str, Any], tmp_path: Path
) -> None:
    start = NOW - timedelta(hours=2)
    device = add_device(connection, "A", cadence_s=60, active_from=start)
    add_device(connection, "B", cadence_s=60, active_from=start, kind="meter", site="HMCE")
    # An hour beyond the window, so that a slow machine does not run out of rows.
    times = [start + timedelta(minutes=number) for number in range(180)]
    add_rows(connection, device, times[:30] + times[40:])
    arguments = {
        "database": postgres_settings,
        "from": start.isoformat(),
        "to": NOW.isoformat(),
        "settle_s": 0,
    }
    found = run(tmp_path, "telemetry_gaps", **arguments)
    assert found == run(tmp_path, "telemetry_gaps", check=True, **arguments)
    assert found["changed"] is False
    assert (found["gaps"], found["missing"], found["expected"], found["present"]) == (2, 130, 240, 110)
    assert [(d["name"], d["state"]) for d in found["devices"]] == [("B", "silent"), ("A", "gaps")]
    assert found["sites"]["WLCE"]["message"] == "A: about 10 of 120 rows missing in 1 gap"
    assert found["sites"]["HMCE"]["state"] == "failed"
    assert any("about 10 missing" in line for line in found["table"])
    last = run(tmp_path, "telemetry_gaps", database=postgres_settings, window_hours=1, sites=["WLCE"])
    assert (last["gaps"], list(last["sites"])) == (0, ["WLCE"])


def test_gaps_that_cannot_be_told_are_failures(postgres_settings: dict[str, Any], tmp_path: Path) -> None:
    connection = create_tables(postgres_settings)
    hour = {"database": postgres_settings, "window_hours": 1}
    assert "is empty" in run(tmp_path, "telemetry_gaps", **hour)["msg"]
    add_device(connection, "A", cadence_s=60, active_from=NOW - timedelta(days=1))
    naive = {"database": postgres_settings, "from": "2026-01-31T12:00:00", "to": "2026-01-31T13:00:00Z"}
    for arguments, words in (
        (naive, "has no offset from UTC"),
        ({**hour, "sites": ["XXXX"]}, "no device of site XXXX"),
        ({**hour, "window_hours": 0}, "must be above 0"),
        ({**hour, "from": "2026-01-31T12:00:00Z"}, "mutually exclusive"),
        ({"database": postgres_settings}, "one of the following is required"),
        ({**hour, "database": {**postgres_settings, "port": 9}}, "the database cannot be reached"),
    ):
        result = run(tmp_path, "telemetry_gaps", **arguments)
        assert result["failed"], arguments
        assert words in result["msg"]


@pytest.mark.criterion("GR-9")
def test_the_ledger_and_the_quarantine_are_written_in_a_real_run_only(
    postgres_settings: dict[str, Any], tmp_path: Path
) -> None:
    connection = create_ledger_tables(postgres_settings)
    start = NOW - timedelta(hours=2)
    device = add_device(connection, "A", cadence_s=60, active_from=start)
    add_rows(
        connection,
        device,
        [start + timedelta(minutes=number) for number in range(180) if number not in {0, 60}],
    )
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE flux.mg_bess_readings SET soe_percent = 101 WHERE time = %s",
            (start + timedelta(minutes=5),),
        )

    def written() -> list[int]:
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT (SELECT count(*) FROM flux.mg_gap_ledger),"
                " (SELECT count(*) FROM flux.mg_coverage_state), (SELECT count(*) FROM flux.mg_quarantine)"
            )
            return list(cursor.fetchone() or ())

    arguments = {
        "database": {**postgres_settings, "user": "flux_operator"},
        "incremental": True,
        "record": True,
        "kinds": ["impossible"],
        "quarantine": True,
    }
    foreseen = run(tmp_path, "telemetry_gaps", check=True, **arguments)
    assert (foreseen["changed"], foreseen["quarantined"], foreseen["recorded"]["new"]) == (True, 1, 2)
    assert written() == [0, 0, 0]
    done = run(tmp_path, "telemetry_gaps", **arguments)
    assert (done["changed"], done["quarantined"], done["recorded"]["new"]) == (True, 1, 2)
    assert written() == [2, 1, 1]
    assert "1 rows impossible" in done["sites"]["WLCE"]["message"]
    again = run(tmp_path, "telemetry_gaps", **arguments)
    assert (again["changed"], again["quarantined"]) == (False, 0)
    assert written() == [2, 1, 1]
    for wrong, words in (
        ({"window_hours": 1}, "incremental takes no window; leave window_hours out"),
        ({"kinds": []}, "give kinds"),
        ({"kinds": ["odd"]}, "must be one or more of"),
    ):
        assert words in run(tmp_path, "telemetry_gaps", **{**arguments, **wrong})["msg"]


def test_freshness(connection: Connection, postgres_settings: dict[str, Any], tmp_path: Path) -> None:
    device = add_device(connection, "A", cadence_s=60, active_from=NOW - timedelta(days=1))
    add_device(connection, "B", cadence_s=60, active_from=NOW - timedelta(days=1), kind="meter")
    add_rows(connection, device, [datetime.now(UTC) - timedelta(seconds=20)])
    found = run(tmp_path, "telemetry_freshness", database=postgres_settings)
    assert found["counts"] == {"ok": 1, "late": 0, "silent": 0, "never": 1}
    assert [(c["name"], c["state"]) for c in found["checks"]] == [
        ("telemetry", "ok"),
        ("telemetry", "critical"),
    ]
    assert found["checks"][1]["message"] == "B has never sent a row"
    down = run(
        tmp_path, "telemetry_freshness", database={**postgres_settings, "hosts": ["127.0.0.1"], "port": 9}
    )
    assert "the database cannot be reached" in down["msg"]
    unknown = run(tmp_path, "telemetry_freshness", database=postgres_settings, sites=["XXXX"])
    assert "no device of site XXXX" in unknown["msg"]
