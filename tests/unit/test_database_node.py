"""A look at one database host: what pg_controldata says, and what a server answers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from module_runner import run_module
from postgres_cluster import PostgresCluster

from stationkeeper.database.cluster import node
from stationkeeper.database.cluster.node import QUERY, absent, look, lsn_bytes, parse_control, slot_name

CONTROL = """pg_control version number:            1300
Database system identifier:           7710763327943474789
Database cluster state:               in archive recovery
Latest checkpoint location:           0/2000080
Latest checkpoint's TimeLineID:       1
Minimum recovery ending location:     0/3065D68
Min recovery ending loc's timeline:   2
"""


def test_the_control_file_of_a_standby_tells_how_far_it_came() -> None:
    assert parse_control(CONTROL) == {
        "system_identifier": "7710763327943474789",
        "timeline": 2,
        "lsn": "0/3065D68",
        "checkpoint_lsn": "0/2000080",
        "state": "in archive recovery",
    }


def test_positions_are_numbers() -> None:
    assert lsn_bytes("1/10") == (1 << 32) + 16
    assert lsn_bytes("0/FF") < lsn_bytes("0/100")


def test_a_slot_has_a_name_that_postgresql_takes() -> None:
    assert slot_name("Flux-DB1.site") == "flux_db1_site"


def test_a_host_without_a_database(tmp_path: Path) -> None:
    result = run_module(tmp_path, "database_node", {"cluster": "no-such-cluster"}, check=True)
    assert result["node"] == absent()
    assert result["changed"] is False


@pytest.fixture
def cluster() -> Any:
    made = PostgresCluster()
    yield made
    made.remove()


def test_a_server_answers_with_every_value_and_its_end_is_in_the_control_file(
    cluster: PostgresCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster.start()
    session = psycopg2.connect(
        host=str(cluster.directory), port=cluster.port, user="postgres", dbname="postgres"
    )
    session.autocommit = True
    with session.cursor() as cursor:
        cursor.execute(QUERY)
        answer = cursor.fetchone()[0]
        cursor.execute("SELECT pg_create_physical_replication_slot('db2', true)")
        cursor.execute(QUERY)
        slots = cursor.fetchone()[0]["slots"]
    session.close()
    assert answer["role"] == "primary"
    assert answer["timeline"] == 1
    assert set(answer) - {"certificate"} <= set(absent())
    assert [(slot["name"], slot["wal_status"]) for slot in slots] == [("db2", "reserved")]
    cluster.stop()
    # As on Debian: data in VERSION/NAME, nothing of it running.
    version = cluster.programs.parts[-2]
    data = tmp_path / version / "main"
    data.parent.mkdir()
    shutil.copytree(cluster.data, data)
    monkeypatch.setattr(node, "CLUSTERS", tmp_path)
    monkeypatch.setattr(node, "CONFIGURATIONS", tmp_path / "etc")
    monkeypatch.setattr(node, "as_postgres", _as_this_account)
    found = look()
    assert (found["role"], found["was"], found["state"]) == ("stopped", "primary", "shut down")
    assert found["system_identifier"] == answer["system_identifier"]
    assert lsn_bytes(found["checkpoint_lsn"]) >= lsn_bytes(answer["lsn"])
    (data / "standby.signal").touch()
    assert look()["was"] == "standby"
    (data / "global" / "pg_control").unlink()
    assert "pg_controldata cannot read" in look()["message"]


def _as_this_account(command: list[str | Path], *, timeout_s: float = 15) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=timeout_s).stdout
