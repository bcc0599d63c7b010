"""The runbooks telemetry_gap_check and telemetry_validate on a real PostgreSQL; no station can be reached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from database_logins import database_logins
from ledger_database import create_ledger_tables
from telemetry_database import add_device, add_rows

from stationkeeper.audit import record
from stationkeeper.audit.paths import AuditPaths
from stationkeeper.audit.verify import verify
from stationkeeper.controller.windows import DAYS
from stationkeeper.database.connection import connect

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def inventory(postgres_settings: dict[str, Any], tmp_path: Path) -> Path:
    """Two stations whose addresses lead nowhere, and rows: WLCE complete, HMCE with a hole."""
    connection = create_ledger_tables(postgres_settings)
    # Now, not when the file was loaded: the session may have run for minutes.
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
    times = [start + timedelta(minutes=number) for number in range(121)]
    for site, rows in (("WLCE", times), ("HMCE", [*times[:70], *times[82:]])):
        device = add_device(connection, f"{site}-BESS-01", cadence_s=60, active_from=start, site=site)
        add_rows(connection, device, rows)
    connection.close()
    hosts = {
        "all": {
            "vars": {
                **database_logins(postgres_settings, postgres_settings["password"]),
                "ansible_host": "127.0.0.1",
                "ansible_port": 9,
            },
            "children": {
                "stations": {
                    "hosts": {"wlce": {"station_site": "WLCE"}, "hmce": {"station_site": "HMCE"}},
                }
            },
        }
    }
    path = tmp_path / "hosts.yml"
    path.write_text(json.dumps(hosts))
    return path


def run(inventory: Path, *arguments: str, playbook: str = "telemetry_gap_check") -> tuple[int, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")} | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        # No vault is opened, and Ansible takes no empty list: some file as a password.
        "ANSIBLE_VAULT_IDENTITY_LIST": f"none@{__file__}",
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "STATIONKEEPER_STATE": str(inventory.parent / "state"),
        "STATIONKEEPER_AUDIT_SPOOL": str(inventory.parent / "spool"),
        "PYTHONPATH": str(ROOT / "src"),
    }
    done = subprocess.run(
        [
            Path(sys.executable).parent / "ansible-playbook",
            "-i",
            inventory,
            f"playbooks/{playbook}.yml",
            *arguments,
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert "DEPRECATION" not in output
    return done.returncode, output


def test_a_gap_fails_the_check_and_is_listed(inventory: Path, postgres_settings: dict[str, Any]) -> None:
    code, output = run(inventory, "-e", "window_hours=1")
    assert code != 0
    assert "telemetry_gap_check FAILED: 2 intended, 1 ok, 1 failed." in output
    assert "HMCE-BESS-01: about 12 of 59 rows missing in 1 gap" in output
    assert "1 devices complete" in output
    code, output = run(inventory, "-e", "window_hours=1", "-e", "fail_on_gap=false")
    assert code == 0, output
    assert "about 12 missing" in output
    code, output = run(inventory, "-e", "window_hours=1", "-e", "target=wlce", "--check")
    assert code == 0, output
    assert "telemetry_gap_check SUCCEEDED (check mode: nothing was changed): 1 intended, 1 ok." in output

    paths = AuditPaths(inventory.parent / "state" / "audit")
    assert verify(paths.chain, paths.keys).ok
    stored = paths.chain.read_text()
    assert postgres_settings["password"] not in stored
    entries = [record.parse(line) for line in stored.encode().splitlines()]
    starts = [entry["data"] for entry in entries if entry["event"] == "START"]
    assert [start["mode"] for start in starts] == ["real", "real", "check"]
    assert starts[0]["runbook"]["title"] == "Find missing telemetry"
    assert not [entry for entry in entries if entry["event"] == "CHANGE"]


@pytest.mark.criterion("MT-5")
def test_planned_gaps_are_listed_and_do_not_fail_the_check(
    inventory: Path, postgres_settings: dict[str, Any]
) -> None:
    with connect(postgres_settings) as connection, connection.cursor() as cursor:
        # Half of the hole, which goes from minute 70 to 82 of the last 120.
        cursor.execute(
            "INSERT INTO flux.mg_maintenance (site, started_at, planned_until, reason, owner, run_id)"
            " SELECT site, active_from + interval '69 min', active_from + interval '75 min',"
            " 'new fan', 'e', 'r' FROM flux.mg_device_registry WHERE site = 'HMCE'"
        )
    code, output = run(inventory, "-e", "window_hours=1")
    assert code != 0
    assert "HMCE-BESS-01: about 6 of 59 rows missing in 1 gap; explained: about" in output
    # Long lines of the table are wrapped.
    assert "about 6 missing, explained: planned maintenance: new fan (e)" in " ".join(output.split())
    hosts = json.loads(inventory.read_text())
    always = {"name": "always", "days": list(DAYS), "start": "00:00", "end": "24:00"}
    components = [{"type": "limits"}, {"type": "maintenance_mode", "windows": [always]}]
    hosts["all"]["children"]["stations"]["hosts"]["hmce"]["edge_controller_components"] = components
    inventory.write_text(json.dumps(hosts))
    code, output = run(inventory, "-e", "window_hours=1")
    assert code == 0, output
    assert "2 intended, 2 ok" in output
    assert "explained: weekly maintenance window always" in " ".join(output.split())


def count(settings: dict[str, Any], table: str) -> int:
    with connect(settings) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM flux.{table}")
        ((number,),) = cursor.fetchall()
        return int(number)


@pytest.mark.criterion("GR-9")
def test_gaps_go_into_the_ledger_when_asked(inventory: Path, postgres_settings: dict[str, Any]) -> None:
    asked = ["-e", "window_hours=1", "-e", "fail_on_gap=false", "-e", "record=true"]
    code, output = run(inventory, *asked, "--check")
    assert code == 0, output
    assert "Ledger: 1 new" in output
    assert count(postgres_settings, "mg_gap_ledger") == 0
    code, output = run(inventory, *asked)
    assert code == 0, output
    assert count(postgres_settings, "mg_gap_ledger") == 1


@pytest.mark.criterion("GR-9")
def test_rows_that_cannot_be_true_are_copied_when_asked(
    inventory: Path, postgres_settings: dict[str, Any]
) -> None:
    with connect(postgres_settings) as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE flux.mg_bess_readings r SET seq = n, heartbeat = n, power_kw = 1, setpoint_kw = 1,"
            " status = 1, alarms = 0 FROM (SELECT device_id, time, row_number() OVER (ORDER BY time) AS n"
            " FROM flux.mg_bess_readings) s WHERE (r.device_id, r.time) = (s.device_id, s.time)"
        )
        cursor.execute(
            "UPDATE flux.mg_bess_readings r SET soe_percent = 120 FROM flux.mg_device_registry d"
            " WHERE d.id = r.device_id AND d.site = 'HMCE'"
            " AND r.time = (SELECT max(time) - interval '10 min' FROM flux.mg_bess_readings)"
        )
    validate = {"playbook": "telemetry_validate"}
    code, output = run(inventory, "-e", "window_hours=1", **validate)
    assert code != 0
    assert "telemetry_validate FAILED: 2 intended, 1 ok, 1 failed." in output
    assert "soe_percent 120 is outside of 0 to 100" in output
    asked = [
        "-e",
        "window_hours=1",
        "-e",
        "target=hmce",
        "-e",
        "quarantine=true",
        "-e",
        "fail_on_finding=false",
    ]
    code, output = run(inventory, *asked, **validate)
    assert code != 0
    assert "The quarantine needs a reason" in output
    reason = ["-e", "reason='sensor broken'"]
    code, output = run(inventory, *asked, *reason, "--check", **validate)
    assert code == 0, output
    assert count(postgres_settings, "mg_quarantine") == 0
    code, output = run(inventory, *asked, *reason, **validate)
    assert code == 0, output
    assert (count(postgres_settings, "mg_quarantine"), count(postgres_settings, "mg_bess_readings")) == (
        1,
        230,
    )


def test_what_cannot_be_answered_fails_for_every_station(inventory: Path) -> None:
    window = ["-e", "window_start=2026-01-31T12:00:00", "-e", "window_end=2026-01-31T13:00:00Z"]
    code, output = run(inventory, *window)
    assert code != 0
    assert "2 intended, 2 failed" in output
    assert "has no offset from UTC" in output
    hosts = json.loads(inventory.read_text())
    hosts["all"]["vars"]["stationkeeper_database_reader"]["port"] = 9
    inventory.write_text(json.dumps(hosts))
    code, output = run(inventory)
    assert code != 0
    assert "2 intended, 2 failed" in output
    assert "the database cannot be reached" in output
    code, output = run(inventory, "-e", "windw_hours=1")
    assert code != 0
    assert "windw_hours" in output
