"""The modules postgresql_migrations and device_registry, run by Ansible against a real PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from module_runner import ROOT, run_module

from stationkeeper.database.connection import connect

ONE = {"name": "0001_one.sql", "sql": "CREATE SCHEMA flux;\nCREATE TABLE flux.one (id int)"}
DEVICE = {
    "id": "0b0f9f5e-6d5c-5a10-9d6c-2f7c0c6f0a01",
    "name": "A-METER-01",
    "type": "meter",
    "site": "A",
    "profile": "generic_meter",
    "cadence_s": 60,
}


@pytest.fixture
def run(tmp_path: Path, postgres_settings: dict[str, Any]) -> Any:
    def module(name: str, *options: str, **arguments: Any) -> dict[str, Any]:
        settings = {key: postgres_settings[key] for key in ("hosts", "port", "user", "password")}
        arguments = {"database": postgres_settings["name"], **settings, **arguments}
        hidden = postgres_settings["password"]
        return run_module(tmp_path, name, arguments, *options, package=None, hidden=hidden)

    return module


def test_migrations_check_apply_and_again(run: Any, postgres_settings: dict[str, Any]) -> None:
    arguments = {"migrations": [ONE], "applied_by": "test"}
    planned = run("postgresql_migrations", "--check", **arguments)
    assert planned["changed"]
    assert planned["applied"] == ["0001_one.sql"]
    with connect(postgres_settings) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('flux.one') IS NULL")
        assert cursor.fetchone() == (True,)
    done = run("postgresql_migrations", **arguments)
    assert (done["changed"], done["version"], done["diff"]["after"]) == (True, 1, "0001_one.sql\n")
    again = run("postgresql_migrations", **arguments)
    assert (again["changed"], again["applied"]) == (False, [])


def test_migrations_say_what_is_wrong(run: Any) -> None:
    absent = run("postgresql_migrations", "--check", migrations=[ONE], applied_by="test", database="no_such")
    assert absent["changed"]
    assert "does not exist yet" in absent["warnings"][0]
    broken = run(
        "postgresql_migrations",
        migrations=[{"name": "0001_x.sql", "sql": "SELECT 1;\nSELEC"}],
        applied_by="test",
    )
    assert broken["failed"]
    assert broken["msg"].startswith('0001_x.sql, line 2: syntax error at or near "SELEC"')
    away = run("postgresql_migrations", migrations=[ONE], applied_by="test", port=1)
    assert away["failed"]
    assert "Connection refused" in away["msg"]


def test_registry_check_apply_and_again(run: Any) -> None:
    before = run("device_registry", "--check", devices=[DEVICE])
    assert before["inserted"] == ["A-METER-01"]
    assert "run the migrations first" in run("device_registry", devices=[DEVICE])["msg"]
    script = (ROOT / "migrations/flux/0001_telemetry.sql").read_text()
    table = script[script.index("CREATE TABLE flux.mg_device_registry") :]
    registry = {"name": "0001_r.sql", "sql": "CREATE SCHEMA flux;" + table[: table.index(";") + 1]}
    run("postgresql_migrations", migrations=[registry], applied_by="test")
    assert run("device_registry", devices=[DEVICE])["changed"]
    assert run("device_registry", devices=[DEVICE])["unchanged"] == 1
    planned = run("device_registry", "--check", devices=[{**DEVICE, "cadence_s": 30}])
    assert planned["diff"]["before"]["A-METER-01"]["cadence_s"] == 60
    assert planned["diff"]["after"]["A-METER-01"]["cadence_s"] == 30
    assert run("device_registry", devices=[DEVICE])["unchanged"] == 1
    left = run("device_registry", devices=[])
    assert (left["changed"], left["unlisted"]) == (False, ["A-METER-01"])
    refused = run("device_registry", devices=[{**DEVICE, "type": "bess"}])
    assert "type cannot change" in refused["msg"]
