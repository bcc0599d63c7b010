"""The copies of audit chains in a database: whole, damaged in every way, and checked by the job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from stationkeeper.audit import identity, record, ship
from stationkeeper.audit.chain import Chain
from stationkeeper.audit.copies import LIMIT, check
from stationkeeper.audit.keys import KeyFileError, KeyRing, load_or_create
from stationkeeper.audit.paths import AuditPaths
from stationkeeper.audit.verify import StoredRow
from stationkeeper.database.connection import connect
from stationkeeper.jobs.interface import JobError, JobSettings
from stationkeeper.jobs.work.audit_copies import work

ROOT = Path(__file__).resolve().parents[2]
Rows = list[StoredRow]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> AuditPaths:
    """A chain of eight records."""
    made = AuditPaths(tmp_path_factory.mktemp("chain") / "audit")
    chain = Chain(made)
    chain.append("START", "run-1", {"process": identity.process_identity(), "playbook": "p.yml"})
    with chain.session() as session:
        for number in range(5):
            session.add("CHANGE", "run-1", {"task": f"task {number}", "text": "zeichen: ü"})
    chain.append("END", "run-1", {"outcome": "ok"})
    return made


@pytest.fixture
def rows(paths: AuditPaths) -> Rows:
    lines = paths.chain.read_text().splitlines()
    entries = [record.parse(line.encode()) for line in lines]
    return [StoredRow(one["seq"], one["hash"], line) for one, line in zip(entries, lines, strict=True)]


def chain_of(rows: Rows) -> str:
    return str(record.parse(rows[0].record.encode())["chain"])


@pytest.fixture
def own(paths: AuditPaths) -> KeyRing:
    return KeyRing.load(paths.keys)


def test_whole_copies_have_no_problem(rows: Rows, own: KeyRing) -> None:
    for trusted in (own, KeyRing()):
        report = check(chain_of(rows), rows, trusted)
        assert (report.ok, report.records) == (True, 8)
        assert report.last_at == record.parse(rows[-1].record.encode())["at"]


def without(rows: Rows) -> Rows:
    return rows[:3] + rows[5:]


def without_the_first(rows: Rows) -> Rows:
    return rows[1:]


def with_another_word(rows: Rows) -> Rows:
    return [*rows[:3], replace(rows[3], record=rows[3].record.replace("task 1", "task 9")), *rows[4:]]


def with_another_hash(rows: Rows) -> Rows:
    return [*rows[:3], replace(rows[3], hash="0" * 64), *rows[4:]]


def with_another_record(rows: Rows) -> Rows:
    return [*rows[:3], replace(rows[4], seq=4), *rows[4:]]


def with_nonsense(rows: Rows) -> Rows:
    return [*rows[:3], replace(rows[3], record="{}"), *rows[4:]]


def in_another_spelling(rows: Rows) -> Rows:
    return [*rows[:3], replace(rows[3], record=rows[3].record.replace(":", ": ", 1)), *rows[4:]]


@pytest.mark.parametrize(
    ("change", "seq", "words"),
    [
        (without, 4, "records 4 to 5 have no copy"),
        (without_the_first, 1, "records 1 to 1 have no copy"),
        (with_another_word, 4, "its hash does not fit"),
        (with_another_hash, 4, "is another one"),
        (with_another_record, 4, "is another one"),
        (with_nonsense, 4, "wrong fields"),
        (in_another_spelling, 4, "canonical"),
    ],
)
def test_damage_is_told_with_its_record(
    rows: Rows, own: KeyRing, change: Callable[[Rows], Rows], seq: int, words: str
) -> None:
    report = check(chain_of(rows), change(rows), own)
    assert (report.findings[0].seq, words in report.findings[0].message) == (seq, True), report.findings


def test_a_chain_that_a_stranger_wrote_anew_is_of_one_piece_but_not_trusted(
    rows: Rows, own: KeyRing, tmp_path: Path
) -> None:
    signer = load_or_create(tmp_path / "stranger.pem", tmp_path / "keys")
    forged, before = [], record.GENESIS
    for row in rows:
        entry = record.parse(row.record.encode()) | {"prev": before, "key": signer.key_id}
        if entry["event"] == "CHAIN_START":
            entry["data"] = entry["data"] | {"public_key": signer.public_text}
        entry["hash"] = before = record.digest(entry)
        entry["sig"] = signer.sign(record.record_statement(before))
        forged.append(StoredRow(row.seq, before, record.canonical(entry).decode()))
    assert check(chain_of(rows), forged, KeyRing()).ok
    report = check(chain_of(rows), forged, own)
    assert [one.kind for one in report.findings] == ["key"] * 8


def test_it_stops_after_many_problems(rows: Rows, own: KeyRing) -> None:
    endless = (replace(rows[3], seq=number) for number in range(10, 10**9))
    report = check(chain_of(rows), endless, own)
    assert LIMIT <= len(report.findings) <= LIMIT + 1


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(KeyFileError, match="'nonsense' is not a public key"):
        KeyRing.of(["nonsense"])


@pytest.fixture
def settings(paths: AuditPaths, postgres_settings: dict[str, Any], tmp_path: Path) -> JobSettings:
    """A database that has the chain's copies, as the migrations make it, and the jobs' own user."""
    with connect(postgres_settings) as connection, connection.cursor() as cursor:
        for role in ("flux_operator", "flux_reader", "flux_jobs"):
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
            if not cursor.fetchone():
                cursor.execute(f"CREATE ROLE {role} LOGIN")
        cursor.execute("ALTER ROLE flux_jobs LOGIN PASSWORD %s", (postgres_settings["password"],))
        cursor.execute("CREATE SCHEMA ops")
        for name in ("0003_ops_audit.sql", "0013_audit_check.sql"):
            cursor.execute((ROOT / "migrations/flux" / name).read_text())
    connection.close()
    assert ship.ship(paths, postgres_settings) == 8
    return JobSettings("flux", {**postgres_settings, "user": "flux_jobs"}, tmp_path, tmp_path)


def test_the_job_counts_what_it_checked(rows: Rows, settings: JobSettings) -> None:
    done = work(settings)
    assert (done.records, done.evidence) == (8, {"chains": {chain_of(rows): 8}, "problems": []})
    figures = {one.name.removeprefix("stationkeeper_audit_copies_"): one.value for one in done.metrics}
    assert (figures["records"], figures["problems"]) == (8, 0)
    assert figures["newest_timestamp_seconds"] > 1_700_000_000


def test_the_job_finds_what_a_superuser_changed(
    rows: Rows, settings: JobSettings, postgres_settings: dict[str, Any]
) -> None:
    with connect(postgres_settings) as connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE ops.audit DISABLE TRIGGER ALL")
        cursor.execute("UPDATE ops.audit SET record = replace(record, 'task 1', 'task 9') WHERE seq = 4")
        cursor.execute("DELETE FROM ops.audit WHERE seq = 6")
    connection.close()
    done = work(settings)
    said = [f"{chain_of(rows)}: record 4 was changed: its hash does not fit"]
    said.append(f"{chain_of(rows)}: records 6 to 6 have no copy")
    assert done.evidence["problems"] == said


def test_the_job_may_only_read(settings: JobSettings) -> None:
    connection = connect(settings.database)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ops.audit (chain, seq, at, hash, record) VALUES ('a', 1, now(), 'b', 'c')"
        )
    connection.close()


def test_a_trusted_key_that_is_none_fails_the_job(settings: JobSettings) -> None:
    with pytest.raises(JobError, match="option trusted_keys: 'x' is not a public key"):
        work(replace(settings, options={"trusted_keys": ["x"]}))
