"""The runbooks anomaly_list and anomaly_resolve, run by Ansible on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from anomaly_world import END, START, AnomalyWorld, make_anomaly_world
from database_logins import database_logins
from local_project import LocalProject
from postgres_cluster import PostgresCluster

from stationkeeper.telemetry.anomalies_detection import detect
from stationkeeper.telemetry.anomalies_records import record
from stationkeeper.telemetry.source import connected

STATES = "SELECT resolved_as, resolution, resolved_by LIKE '%@%' FROM flux.mg_anomaly ORDER BY id"


@pytest.fixture
def world(postgres_cluster: PostgresCluster) -> Iterator[AnomalyWorld]:
    yield from make_anomaly_world(postgres_cluster)


@pytest.mark.criterion("GR-9")
def test_anomalies_are_listed_and_resolved_by_runbook(world: AnomalyWorld, tmp_path: Path) -> None:
    world.spoil("WLCE-BESS-01", 5, 15, "power_kw = setpoint_kw + 20")
    world.spoil("WLCE-BESS-01", 20, 20, "voltage_v = 300")
    world.spoil("HMCE-BESS-01", 20, 20, "voltage_v = 300")
    with connected(world.settings) as connection:
        assert record(connection, detect(connection, START, END, {}).found) == (3, 0)
    variables = {
        "stationkeeper_system": "test",
        "stationkeeper_state": str(tmp_path / "state"),
        **database_logins(
            {key: world.settings[key] for key in ("hosts", "port", "name")}, world.settings["password"]
        ),
    }
    stations = {site.lower(): {"station_site": site} for site in ("WLCE", "HMCE")}
    project = LocalProject(tmp_path, variables, {"stations": stations})
    power, spike = (
        world.on(
            "SELECT a.id FROM flux.mg_anomaly a JOIN flux.mg_device_registry r ON r.id = device_id"
            " WHERE metric = %s AND site = %s",
            metric,
            site,
        )[0][0]
        for metric, site in (("power_kw", "WLCE"), ("voltage_v", "WLCE"))
    )

    assert project.run("anomaly_list", fail_on="critical") != 0
    assert "2 open anomalies: 1 critical, 0 warning, 1 info" in project.output
    assert "1 critical, 0 warning, 2 info" in project.output
    assert "power_kw 20 beside setpoint_kw" in project.output
    assert "2 intended, 1 ok, 1 failed" in project.output

    said = {"target": "wlce", "kind": "fixed", "resolution": "restarted", "reason": "test"}
    assert project.run("anomaly_resolve", "--check", "--diff", ids=[power, spike], **said) == 0, (
        project.output
    )
    assert "power_kw 20 beside setpoint_kw, expected" in project.output
    assert "fixed, restarted" in project.output
    assert world.on(STATES) == [(None, None, None)] * 3
    assert project.run("anomaly_resolve", ids=[power, spike], **said) == 0, project.output
    assert "1 intended, 1 changed" in project.output
    assert sorted(world.on(STATES), key=str) == [("fixed", "restarted", True)] * 2 + [(None, None, None)]
    assert project.run("anomaly_resolve", ids=[power, spike], **said) == 0, project.output
    assert "nothing to resolve" in project.output
    assert not project.changed
