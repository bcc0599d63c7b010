"""Copies of the chain in a real PostgreSQL, and runs that go on when disk or database do not."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from stationkeeper.audit import identity, record, ship
from stationkeeper.audit.chain import Chain, run_is_recorded
from stationkeeper.audit.command import run as command
from stationkeeper.audit.paths import AuditPaths
from stationkeeper.audit.recorder import Recorder
from stationkeeper.audit.verify import verify
from stationkeeper.database.connection import connect
from stationkeeper.database.settings_file import SettingsFileError, read_settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuditPaths:
    monkeypatch.setenv("STATIONKEEPER_AUDIT_SPOOL", str(tmp_path / "spool"))
    monkeypatch.delenv("STATIONKEEPER_AUDIT_DSN_FILE", raising=False)
    return AuditPaths(tmp_path / "audit")


@pytest.fixture
def database(postgres_settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A database with the table of the real migration."""
    connection = connect(postgres_settings)
    with connection, connection.cursor() as cursor:
        for role in ("flux_operator", "flux_reader"):
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
            if not cursor.fetchone():
                cursor.execute(f"CREATE ROLE {role} NOLOGIN")
        cursor.execute("CREATE SCHEMA ops; GRANT USAGE ON SCHEMA ops TO flux_operator, flux_reader")
        cursor.execute((ROOT / "migrations/flux/0003_ops_audit.sql").read_text())
    connection.close()
    return postgres_settings


def ask(settings: dict[str, Any], query: str) -> list[tuple[Any, ...]]:
    connection = connect(settings)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


def fill(paths: AuditPaths, run_id: str, changes: int = 3) -> None:
    chain = Chain(paths)
    chain.append("START", run_id, {"process": identity.process_identity(), "playbook": "p.yml"})
    for number in range(changes):
        chain.append("CHANGE", run_id, {"task": f"task {number}", "text": "zeichen: ü \x00"})
    chain.append("END", run_id, {"outcome": "ok"})


def settings_file(paths: AuditPaths, settings: dict[str, Any]) -> Path:
    paths.directory.mkdir(exist_ok=True, mode=0o700)
    paths.settings.write_text(json.dumps(settings))
    paths.settings.chmod(0o600)
    return paths.settings


def test_records_are_copied_once_and_compare_equal(paths: AuditPaths, database: dict[str, Any]) -> None:
    fill(paths, "run-1")
    assert ship.ship(paths, database) == 6
    assert ship.ship(paths, database) == 0
    fill(paths, "run-2")
    assert ship.ship(paths, database) == 5
    chain = record.parse(paths.chain.read_bytes().splitlines()[0])["chain"]
    report = verify(paths.chain, paths.keys, rows=ship.fetch(database, chain))
    assert report.ok
    assert (report.compared, report.not_shipped) == (11, 0)
    rows = ask(database, "SELECT event, data ->> 'task' FROM ops.audit WHERE run_id = 'run-2' ORDER BY seq")
    assert rows[:2] == [("START", None), ("CHANGE", "task 0")]


def test_the_table_takes_no_change(paths: AuditPaths, database: dict[str, Any]) -> None:
    fill(paths, "run-1")
    ship.ship(paths, database)
    for statement in (
        "UPDATE ops.audit SET record = '{}'",
        "DELETE FROM ops.audit WHERE seq = 2",
        "TRUNCATE ops.audit",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="append-only"):
            ask(database, statement)
    # A shipper needs no more than this role has.
    for statement in ("UPDATE ops.audit SET record = '{}'", "TRUNCATE ops.audit"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="permission denied"):
            ask(database, f"SET ROLE flux_operator; {statement}")
    assert ask(database, "SET ROLE flux_operator; SELECT count(*) FROM ops.audit") == [(6,)]


def test_a_chain_cut_together_with_its_head_is_found_by_the_copies(
    paths: AuditPaths, database: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    fill(paths, "run-1")
    ship.ship(paths, database)
    kept = paths.chain.read_bytes().splitlines(keepends=True)[:4]
    paths.chain.write_bytes(b"".join(kept))
    paths.head.unlink()
    # Appending rebuilds the head, as after a power cut: the chain alone now looks whole.
    Chain(paths).append("END", "run-1", {})
    assert verify(paths.chain, paths.keys).ok
    settings_file(paths, database)
    assert command(["--directory", str(paths.directory), "verify", "--database"]) == 1
    out = capsys.readouterr().out
    assert "record 5 differs from its copy in the database" in out
    with pytest.raises(ship.ShipError, match="not the one in the chain"):
        ship.ship(paths, database)


def test_a_tail_that_only_the_database_has_is_found(paths: AuditPaths, database: dict[str, Any]) -> None:
    fill(paths, "run-1")
    ship.ship(paths, database)
    chain = record.parse(paths.chain.read_bytes().splitlines()[0])["chain"]
    rows = ship.fetch(database, chain)
    paths.chain.write_bytes(b"".join(paths.chain.read_bytes().splitlines(keepends=True)[:4]))
    messages = [f.message for f in verify(paths.chain, paths.keys, rows=rows).findings]
    assert "records 5 to 6 are in the database, but not in the chain" in messages


def test_a_copy_that_was_changed_or_lost_is_found(paths: AuditPaths, database: dict[str, Any]) -> None:
    fill(paths, "run-1")
    ship.ship(paths, database)
    ask(
        database,
        "ALTER TABLE ops.audit DISABLE TRIGGER USER;"
        "UPDATE ops.audit SET record = replace(record, 'task 0', 'task 9') WHERE seq = 3;"
        "DELETE FROM ops.audit WHERE seq = 4",
    )
    chain = record.parse(paths.chain.read_bytes().splitlines()[0])["chain"]
    findings = verify(paths.chain, paths.keys, rows=ship.fetch(database, chain)).findings
    assert {(finding.kind, finding.seq) for finding in findings} == {("database", 3), ("database", 4)}


def test_thousands_of_records_ship_at_once(paths: AuditPaths, database: dict[str, Any]) -> None:
    with Chain(paths).session() as session:
        for number in range(6000):
            session.add("CHANGE", "run-1", {"number": number})
    assert ship.ship(paths, database) == 6001


def test_settings_come_from_a_file_that_only_the_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "database"
    path.write_text("host=a,b port=5433 dbname=flux user=flux_operator password='p w'")
    path.chmod(0o600)
    assert read_settings(path) == {
        "hosts": ["a", "b"],
        "port": 5433,
        "name": "flux",
        "user": "flux_operator",
        "password": "p w",
    }
    path.chmod(0o640)
    with pytest.raises(SettingsFileError, match="chmod 600"):
        read_settings(path)
    path.chmod(0o600)
    for text in ("password=geheim123 =", '{"password": "geheim123"'):
        path.write_text(text)
        with pytest.raises(SettingsFileError) as caught:
            read_settings(path)
        assert "geheim123" not in str(caught.value)


def test_a_run_goes_on_when_the_database_is_down(paths: AuditPaths) -> None:
    said: list[str] = []
    recorder = Recorder("run-1", paths, said.append)
    assert recorder.start({"process": identity.process_identity()})
    down = {"hosts": ["127.0.0.1"], "port": 9, "name": "flux", "user": "u", "password": "geheim123"}
    settings_file(paths, down)
    recorder.end({})
    recorder.ship(limit_s=3.0)
    assert len(said) == 1
    assert "records stay on this control node until the next run" in said[0]
    assert "geheim123" not in said[0]


def test_a_database_that_hangs_costs_no_more_than_the_limit(paths: AuditPaths) -> None:
    said: list[str] = []
    recorder = Recorder("run-1", paths, said.append)
    recorder.start({"process": identity.process_identity()})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        settings_file(paths, {"hosts": ["127.0.0.1"] * 40, "port": port, "name": "x", "user": "x"})
        began = time.monotonic()
        recorder.ship(limit_s=0.5)
        assert time.monotonic() - began < 40, "each of the 40 addresses costs 2 s when nobody ends it"
    assert "no answer within 0.5 s" in said[0]


def test_records_that_the_chain_refuses_are_spooled_and_brought_in(paths: AuditPaths, tmp_path: Path) -> None:
    Chain(paths).append("CHANGE", "earlier", {})
    paths.private_key.chmod(0o644)
    said: list[str] = []
    recorder = Recorder("run-1", paths, said.append)
    assert not recorder.start({"process": identity.process_identity(), "playbook": "stop.yml"})
    assert not recorder.note("CHANGE", {"task": "Stop"})
    assert not run_is_recorded("run-1", paths)
    assert not recorder.end({"outcome": "ok"})
    assert "cannot be recorded" in said[0]
    assert "the next run puts them into the chain" in said[1]
    (spooled,) = (tmp_path / "spool").iterdir()
    assert spooled.stat().st_mode & 0o777 == 0o600

    paths.private_key.chmod(0o600)
    later = Recorder("run-2", paths, said.append)
    assert later.start({"process": identity.process_identity()})
    later.end({})
    assert not list((tmp_path / "spool").iterdir())
    entries = [record.parse(line) for line in paths.chain.read_bytes().splitlines()]
    assert [(e["event"], e["run_id"]) for e in entries[2:]] == [
        ("START", "run-1"),
        ("CHANGE", "run-1"),
        ("END", "run-1"),
        ("START", "run-2"),
        ("END", "run-2"),
    ]
    assert entries[2]["data"]["spooled"] is True
    assert verify(paths.chain, paths.keys).ok


def test_records_wait_in_memory_while_the_chain_cannot_be_written(paths: AuditPaths) -> None:
    said: list[str] = []
    recorder = Recorder("run-1", paths, said.append)
    recorder.start({"process": identity.process_identity()})
    hidden = paths.directory.with_name("hidden")
    paths.directory.rename(hidden)
    paths.directory.write_text("in the way")
    assert not recorder.note("CHANGE", {"task": "first"})
    assert not recorder.note("CHANGE", {"task": "second"})
    paths.directory.unlink()
    hidden.rename(paths.directory)
    assert recorder.note("CHANGE", {"task": "third"})
    tasks = [record.parse(line)["data"].get("task") for line in paths.chain.read_bytes().splitlines()]
    assert tasks[2:] == ["first", "second", "third"]
    assert len(said) == 1


def test_a_spool_folder_that_others_prepared_is_not_used(paths: AuditPaths, tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(mode=0o777)
    (tmp_path / "spool").chmod(0o777)
    said: list[str] = []
    recorder = Recorder("run-1", paths, said.append)
    assert recorder.start({"process": identity.process_identity()})
    assert "mode 0700" in said[0]
    paths.private_key.chmod(0o644)
    assert not Recorder("run-2", paths, said.append).end({})
    assert "1 records of this run are LOST" in said[-1]
    assert not list((tmp_path / "spool").iterdir())
