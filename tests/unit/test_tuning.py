"""Settings that fit a host, and those of roles on a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from module_runner import run_module
from postgres_cluster import PostgresCluster

from stationkeeper.database import tuning
from stationkeeper.database.connection import connect
from stationkeeper.database.tuning import Host, TuningError


def test_settings_follow_memory_and_cores() -> None:
    small = tuning.recommend(Host(1024, 1), memory_percent=75)
    assert small["postgresql_memory_mb"] == 768
    assert small["max_parallel_workers_per_gather"] == 1
    large = tuning.recommend(Host(65536, 16), memory_percent=50)
    assert large["postgresql_memory_mb"] == 32768
    assert (large["max_worker_processes"], large["max_parallel_workers"]) == (24, 16)
    assert (large["max_parallel_workers_per_gather"], large["autovacuum_max_workers"]) == (4, 8)
    # Of each sort of each connection: never the server's own.
    assert "work_mem" not in large


def test_only_what_differs_by_much_is_to_be_written() -> None:
    wanted = {"postgresql_memory_mb": 1000, "max_parallel_workers": 8, "autovacuum_max_workers": 3}
    force = {"autovacuum_max_workers": "3", "max_parallel_workers": "8"}
    assert tuning.advice(wanted, 1100, {"max_parallel_workers": 2}, force) == {
        "max_parallel_workers": "8 (is 2)"
    }
    assert tuning.advice(wanted, 500, {}, force) == {"postgresql_memory_mb": "1000 (is 500)"}


def test_the_control_group_limits_the_memory(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:       8388608 kB\n")
    assert tuning.measure(tmp_path).memory_mb == 8192
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    limit = tmp_path / "sys/fs/cgroup/memory.max"
    limit.write_text("max\n")
    assert tuning.measure(tmp_path).memory_mb == 8192
    limit.write_text(f"{2**30}\n")
    assert tuning.measure(tmp_path).memory_mb == 1024
    (tmp_path / "proc/meminfo").write_text("")
    with pytest.raises(TuningError, match="cannot be read"):
        tuning.measure(tmp_path)


def test_roles_get_their_settings_once(
    tmp_path: Path, postgres_settings: dict[str, Any], postgres_cluster: PostgresCluster
) -> None:
    name = f"reader_{postgres_settings['name']}"
    connection = connect(postgres_settings)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name}")
    connection.autocommit = True
    arguments = {
        "database": postgres_settings["name"],
        "hosts": [str(postgres_cluster.directory)],
        "port": postgres_settings["port"],
        "memory_mb": 64,
        "roles": {name: {"work_mem": "32MB"}},
    }
    planned = run_module(tmp_path, "database_tuning", arguments, check=True)
    assert planned["roles_changed"] == [f"{name}: work_mem = 32MB (was unset)"]
    assert "postgresql_memory_mb" in planned["advice"]
    assert tuning.role_settings(connection, postgres_settings["name"]) == {}
    assert run_module(tmp_path, "database_tuning", arguments)["changed"]
    wanted = arguments["roles"]
    assert tuning.converge_roles(connection, postgres_settings["name"], wanted, check=False) == []
    with pytest.raises(TuningError, match="unrecognized configuration parameter"):
        tuning.converge_roles(connection, postgres_settings["name"], {name: {"work_men": "1"}}, check=True)
    connection.close()
