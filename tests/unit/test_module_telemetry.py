"""The telemetry modules, run by Ansible itself on the control node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ledger_database import create_ledger_tables
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import add_device, add_rows, create_tables

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def connection(postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    opened = create_tables(postgres_settings)
    yield opened
    opened.close()


def run(folder: Path, module: str, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """Run a module once on this machine and return its result."""
    (folder / "ansible.cfg").touch()
    environment = os.environ | {
        "ANSIBLE_LIBRARY": str(ROOT / "library"),
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_INJECT_INVOCATION": "true",
        "PYTHONPATH": str(ROOT / "src"),
    }
    program = Path(sys.executable).parent / "ansible"
    command = [program, "localhost", "-m", module, "-a", json.dumps(arguments)]
    command += ["-e", f"ansible_python_interpreter={sys.executable}", *(["--check"] if check else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)
    assert "DEPRECATION" not in done.stdout + done.stderr
    password = (arguments.get("database") or {}).get("password", "never-there")
    assert password not in done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)["plays"][0]["tasks"][0]["hosts"]["localhost"]
    return result


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
    add_rows(connection, device, [start + timedelta(minutes=number) for number in range(180) if number % 60])
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
