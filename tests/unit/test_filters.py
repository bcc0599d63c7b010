"""The Jinja filters, called as Ansible calls them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from stationkeeper.registry.identity import device_id

ROOT = Path(__file__).parents[2]


def load(name: str) -> dict[str, Any]:
    """Return the filters of a file in filter_plugins/."""
    specification = importlib.util.spec_from_file_location(
        f"sk_{name}_filters", ROOT / f"filter_plugins/{name}.py"
    )
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    found: dict[str, Any] = module.FilterModule().filters()
    return found


@pytest.fixture(scope="module")
def filters() -> dict[str, Any]:
    return load("stationkeeper")


def test_device_id_is_the_package_s_and_a_declared_one_wins(filters: dict[str, Any]) -> None:
    derive = filters["stationkeeper_device_id"]
    assert derive({"name": "WLCE-BESS-01"}, "flux", "WLCE") == str(device_id("flux", "WLCE", "WLCE-BESS-01"))
    assert derive("WLCE-BESS-01", "flux", "WLCE") == derive({"name": "WLCE-BESS-01"}, "flux", "WLCE")
    assert derive({"name": "X", "id": "ABC"}, "flux", "WLCE") == "abc"
    with pytest.raises(AnsibleFilterError, match="must be text"):
        derive({"modbus": {}}, "flux", "WLCE")


def test_registry_rows_of_all_stations(filters: dict[str, Any]) -> None:
    device = {"name": "A-1", "type": "bess", "profile": "p", "cadence_s": 60}
    hostvars = {
        "a": {"station_site": "A", "station_devices": [device]},
        "b": {"station_site": "B", "station_devices": []},
        "c": {"station_site": "C"},
    }
    rows = filters["stationkeeper_registry_rows"](hostvars, ["a", "b"], "flux")
    assert [(row["name"], row["site"], row["metadata"]) for row in rows] == [("A-1", "A", {"station": "a"})]
    with pytest.raises(AnsibleFilterError, match="c has no station_devices"):
        filters["stationkeeper_registry_rows"](hostvars, ["c"], "flux")
    hostvars["a"]["station_devices"] = [{**device, "type": "solar"}]
    with pytest.raises(AnsibleFilterError, match="type is 'solar'"):
        filters["stationkeeper_registry_rows"](hostvars, ["a"], "flux")


def test_migrations(filters: dict[str, Any], tmp_path: Path) -> None:
    read = filters["stationkeeper_migrations"]
    assert read(str(ROOT / "migrations/flux"))[0]["name"] == "0001_telemetry.sql"
    (tmp_path / "0002_late.sql").write_text("SELECT 1")
    with pytest.raises(AnsibleFilterError, match="0001 is missing"):
        read(str(tmp_path))


def test_a_stop_order_that_waits_is_critical() -> None:
    waiting = {"wlce": {"why": "not latched", "reason": "smoke", "since": "2026-01-31T12:00:00+00:00"}}
    checks = load("edge")["edge_stop_order_checks"]
    (check,) = checks(waiting, ["hmce", "wlce"])
    assert (check["name"], check["state"]) == ("stop order", "critical")
    assert check["message"].startswith("wlce waits for its stop: edge_emergency_stop")
    assert "2026-01-31T12:00:00+00:00, smoke; not latched" in check["message"]
    assert checks(waiting, ["hmce"]) == []


def test_the_filter_reads_what_the_hosts_registered() -> None:
    hostvars = {
        "db-1": {
            "database_patroni": {
                "status": 200,
                "json": {"members": [{"name": "db_1", "role": "leader", "state": "running"}]},
            },
            "database_etcd": {"rc": 0},
        },
        "db-2": {"database_patroni": {"status": -1, "msg": "refused"}, "database_etcd": {"rc": 1}},
        # One that could not be asked, and one without Patroni.
        "db-3": {"database_patroni": {"unreachable": True}, "database_etcd": {"unreachable": True}},
        "db-4": {"database_patroni": {"skipped": True}, "database_etcd": {"skipped": True}},
    }
    problems = load("database")["database_patroni"](hostvars, list(hostvars), "db-1")
    assert [(problem["kind"], problem["host"]) for problem in problems] == [
        ("patroni_silent", "db-2"),
        ("etcd", "db-2"),
    ]
