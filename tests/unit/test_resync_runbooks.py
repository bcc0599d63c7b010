"""The runbooks telemetry_resync (with a real controller) and telemetry_freshness, with a real database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from controller_process import BATTERY_ID, METER_ID, NAMES, Station, wait_until
from database_logins import database_logins
from local_project import LocalProject
from maintenance_database import create_all_tables
from postgres_cluster import PASSWORD, PostgresCluster
from telemetry_database import add_device, add_rows

from stationkeeper.database.connection import connect

RELOAD = """          ansible.builtin.systemd_service:
            name: bess_controller
            state: reloaded
"""
PROGRAM = "[/opt/stationkeeper/venv/bin/stationkeeper, controller, status]"
AGAIN = PROGRAM.replace("status]", 'requeue, --since, "{{ _inputs.resend_since }}"]')


def project_of(path: Path, settings: dict[str, Any], *hosts: str) -> LocalProject:
    variables = database_logins({key: settings[key] for key in ("hosts", "port", "name")}, PASSWORD)
    return LocalProject(
        path, variables, {"stations": {host: {"station_site": host.upper()} for host in hosts}}
    )


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    made = Station(tmp_path / "station")
    made.start_simulator()
    yield made
    made.end()


def test_a_backlog_is_pending_then_synced(
    station: Station, private_postgres: PostgresCluster, tmp_path: Path
) -> None:
    settings = private_postgres.create_database()
    connection = create_all_tables(settings)
    with connection, connection.cursor() as cursor:
        for identifier, kind in ((BATTERY_ID, "bess"), (METER_ID, "meter")):
            cursor.execute(
                "INSERT INTO flux.mg_device_registry (id, name, type, site, profile, cadence, active_from)"
                " VALUES (%s, %s, %s, 'WLCE', 'generic', '1 minute', now() - interval '1 hour')",
                (identifier, NAMES[identifier], kind),
            )
    connection.close()
    project = project_of(tmp_path, settings, "wlce")
    project.replace("telemetry_resync", PROGRAM, json.dumps(station.command("status")))
    again = station.command("requeue", "--since", "{{ _inputs.resend_since }}")
    project.replace("telemetry_resync", AGAIN, json.dumps(again))
    pid = f"{tmp_path}/pid"
    command = f"          ansible.builtin.shell: kill -HUP $(cat {pid})\n"
    project.replace("telemetry_resync", RELOAD, command)

    private_postgres.stop()
    station.use_database(settings)
    station.start_controller()
    assert station.controller is not None
    Path(pid).write_text(str(station.controller.pid))

    def old() -> bool:
        told = station.call("status").stdout
        if not told:
            return False  # the controller has only just started
        oldest = json.loads(told)["buffer"].get("oldest")
        return bool(oldest) and datetime.now(UTC) - datetime.fromisoformat(oldest) > timedelta(seconds=10)

    wait_until(old, "rows that wait for long")
    assert project.run("telemetry_resync", "--check", wait_s=0, settle_s=5) != 0
    assert not project.changed
    assert "1 intended, 1 failed" in project.output
    assert "pending" in project.output
    assert "rows, the oldest since" in project.output
    assert "Z (seq 1 of " in project.output
    assert "the database cannot be reached" in project.output

    private_postgres.start()
    assert project.run("telemetry_resync", upload_now=True) != 0
    assert "upload_now reloads controllers" in project.output
    arguments = {"upload_now": True, "reason": "test", "wait_s": 120, "settle_s": 5}
    assert project.run("telemetry_resync", **arguments) == 0, project.output[-4000:]
    assert "1 intended, 1 ok" in project.output
    assert "synced" in project.output
    with connect(settings) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT min(seq), max(seq) - min(seq) + 1 = count(seq) FROM flux.mg_bess_readings")
        assert cursor.fetchone() == (1, True)
        cursor.execute("DELETE FROM flux.mg_bess_readings")

    # The database has lost them; the station still keeps them.
    arguments = {"resend_since": "2026-01-01T00:00:00Z", "reason": "test", "wait_s": 120, "settle_s": 5}
    assert project.run("telemetry_resync", **arguments) == 0, project.output[-4000:]
    with connect(settings) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT min(seq), max(seq) - min(seq) + 1 = count(seq) FROM flux.mg_bess_readings")
        assert cursor.fetchone() == (1, True)

    station.kill_controller()
    assert project.run("telemetry_resync", wait_s=120, settle_s=5) != 0
    assert "the controller does not run" in project.output


def test_freshness_names_the_silent_device(postgres_settings: dict[str, Any], tmp_path: Path) -> None:
    connection = create_all_tables(postgres_settings)
    now = datetime.now(UTC)
    for site, age in (("WLCE", timedelta(0)), ("HMCE", timedelta(days=2))):
        device = add_device(
            connection, f"{site}-BESS-01", cadence_s=3600, active_from=now - timedelta(days=3), site=site
        )
        add_rows(connection, device, [now - age])
    connection.close()
    project = project_of(tmp_path, postgres_settings, "wlce", "hmce")
    assert project.run("telemetry_freshness") != 0
    assert "2 intended, 1 ok, 1 failed" in project.output
    assert "HMCE-BESS-01: last row 1728" in project.output
    assert project.run("telemetry_freshness", "--check", target="wlce") == 0, project.output[-4000:]
    assert "1 devices, the newest row of the last one is" in project.output
