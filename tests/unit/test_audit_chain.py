"""The audit chain: appending, repair after a crash, and every kind of tampering found."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stationkeeper.audit import identity, record
from stationkeeper.audit.chain import Chain, ChainError, run_is_recorded
from stationkeeper.audit.command import run as command
from stationkeeper.audit.keys import KeyFileError, Signer, load_or_create
from stationkeeper.audit.paths import AuditPaths
from stationkeeper.audit.verify import Report, verify


@pytest.fixture
def paths(tmp_path: Path) -> AuditPaths:
    return AuditPaths(tmp_path / "audit")


def start(chain: Chain, run_id: str, process: dict[str, Any] | None = None) -> None:
    chain.append("START", run_id, {"process": process or identity.process_identity(), "playbook": "p.yml"})


def filled(paths: AuditPaths, changes: int = 6) -> Chain:
    chain = Chain(paths)
    start(chain, "run-1")
    for number in range(changes):
        chain.append("CHANGE", "run-1", {"task": f"task {number}"})
    chain.append("END", "run-1", {"outcome": "ok"})
    return chain


def checked(paths: AuditPaths) -> Report:
    return verify(paths.chain, paths.keys)


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


def lines(paths: AuditPaths) -> list[bytes]:
    return paths.chain.read_bytes().splitlines(keepends=True)


def rewrite(paths: AuditPaths, content: list[bytes]) -> None:
    paths.chain.write_bytes(b"".join(content))


def gone_process() -> dict[str, Any]:
    with subprocess.Popen(["true"]) as process:
        found = identity.process_identity(process.pid)
    return {**found, "start_ticks": found["start_ticks"] or 1}


def test_a_whole_chain_is_whole(paths: AuditPaths) -> None:
    filled(paths)
    report = checked(paths)
    assert report.ok
    assert (report.records, report.runs, report.aborted, report.open_runs) == (9, 1, 0, [])
    first = record.parse(lines(paths)[0])
    assert (first["seq"], first["event"], first["prev"]) == (1, "CHAIN_START", record.GENESIS)
    assert "public_key" in first["data"]


def test_files_are_for_their_owner_only(paths: AuditPaths) -> None:
    filled(paths)
    assert paths.directory.stat().st_mode & 0o777 == 0o700
    for path in (paths.private_key, paths.chain, paths.head):
        assert path.stat().st_mode & 0o777 == 0o600, path


def test_a_key_that_others_can_read_is_refused(paths: AuditPaths) -> None:
    filled(paths)
    paths.private_key.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        Chain(paths).append("CHANGE", "r", {})


def test_records_are_written_alike_whatever_the_data(paths: AuditPaths) -> None:
    data = {"b": 1.5, "a": [True, None, float("nan"), {"ü": "\x00\ud800"}], "n": 2**63, 3: b"\xff"}
    Chain(paths).append("CHANGE", "r", data)
    stored = json.loads(lines(paths)[-1])["data"]
    assert stored == {
        "b": "1.5",
        "a": [True, None, "nan", {"ü": "\ufffd?"}],
        "n": 2**63,
        "3": "\ufffd",
    }
    assert checked(paths).ok


def change_text(content: list[bytes]) -> list[bytes]:
    return [line.replace(b"task 2", b"task 9") for line in content]


def change_and_rehash(content: list[bytes]) -> list[bytes]:
    entry = json.loads(content[3])
    entry["data"]["task"] = "another"
    entry["hash"] = record.digest(entry)
    return [*content[:3], record.canonical(entry) + b"\n", *content[4:]]


def change_spelling(content: list[bytes]) -> list[bytes]:
    return [*content[:3], content[3].replace(b'"event":', b'"event": '), *content[4:]]


TAMPERINGS: list[tuple[Callable[[list[bytes]], list[bytes]], set[str]]] = [
    (change_text, {"changed"}),
    (change_and_rehash, {"signature", "link"}),
    (change_spelling, {"changed"}),
    (lambda c: [*c[:4], *c[5:]], {"missing"}),
    (lambda c: c[1:], {"missing"}),
    (lambda c: c[:-1], {"truncated"}),
    (lambda c: [*c[:-1], c[-1][:-20]], {"truncated", "malformed"}),
    (lambda c: [*c[:3], c[4], c[3], *c[5:]], {"reordered"}),
    (lambda c: [*c[:4], c[3], *c[4:]], {"duplicated"}),
    (lambda c: [*c, c[-2]], {"duplicated"}),
    (lambda c: [*c[:4], b"not json\n", *c[4:]], {"malformed"}),
    (lambda c: [], {"missing", "truncated"}),
]


@pytest.mark.parametrize(("tamper", "expected"), TAMPERINGS)
def test_each_tampering_is_found(
    paths: AuditPaths, tamper: Callable[[list[bytes]], list[bytes]], expected: set[str]
) -> None:
    filled(paths)
    rewrite(paths, tamper(lines(paths)))
    report = checked(paths)
    assert not report.ok
    assert expected <= kinds(report), report.findings


def test_the_finding_names_the_record(paths: AuditPaths) -> None:
    filled(paths)
    content = lines(paths)
    rewrite(paths, [*content[:4], *content[6:]])
    (finding,) = checked(paths).findings
    assert (finding.kind, finding.seq, finding.message) == ("missing", 5, "records 5 to 6 are missing")


def test_a_chain_signed_by_another_key_is_found(paths: AuditPaths, tmp_path: Path) -> None:
    filled(paths)
    forged = AuditPaths(tmp_path / "forged")
    filled(forged)
    report = verify(forged.chain, paths.keys)
    assert {"key", "head"} <= kinds(report)


def test_a_head_rolled_back_by_hand_is_not_accepted(paths: AuditPaths) -> None:
    filled(paths)
    content = lines(paths)
    rewrite(paths, content[:-1])
    head = json.loads(paths.head.read_bytes())
    last = json.loads(content[-2])
    head |= {"seq": last["seq"], "hash": last["hash"], "size": sum(map(len, content[:-1]))}
    paths.head.write_bytes(record.canonical(head) + b"\n")
    assert "head" in kinds(checked(paths))


def test_a_missing_head_is_found(paths: AuditPaths) -> None:
    filled(paths)
    paths.head.unlink()
    assert kinds(checked(paths)) == {"head"}


def test_records_of_another_chain_are_found(paths: AuditPaths, tmp_path: Path) -> None:
    filled(paths)
    other = AuditPaths(tmp_path / "other")
    other.directory.mkdir()
    shutil.copy(paths.private_key, other.private_key)
    filled(other)
    content = lines(paths)
    rewrite(paths, [*content[:4], lines(other)[4], *content[5:]])
    assert {"foreign", "link"} <= kinds(checked(paths))


def test_appending_to_a_cut_chain_is_refused_until_it_is_archived(paths: AuditPaths) -> None:
    chain = filled(paths)
    rewrite(paths, lines(paths)[:-2])
    for attempt in (chain, Chain(paths)):
        with pytest.raises(ChainError, match="records were removed"):
            attempt.append("CHANGE", "r", {})
    archived = Chain(paths).archive("records were removed by hand")
    assert "truncated" in kinds(verify(archived, paths.keys, head_path=archived.with_suffix(".head")))
    start(Chain(paths), "run-2")
    report = checked(paths)
    assert not report.findings
    previous = record.parse(lines(paths)[0])["data"]["previous"]
    assert previous["file"] == archived.name
    assert previous["reason"] == "records were removed by hand"


def test_archiving_is_refused_while_a_run_is_under_way(paths: AuditPaths) -> None:
    start(Chain(paths), "run-1")
    with pytest.raises(ChainError, match="run-1"):
        Chain(paths).archive("end of the year")


@pytest.mark.parametrize("lost_head", [True, False])
def test_a_writer_that_died_between_record_and_head_is_repaired(paths: AuditPaths, lost_head: bool) -> None:
    chain = filled(paths)
    head = paths.head.read_bytes()
    start(chain, "run-2")
    if lost_head:
        paths.head.unlink()
    else:
        paths.head.write_bytes(head)
    with paths.chain.open("ab") as stream:
        stream.write(b'{"half a record')
    Chain(paths).append("CHANGE", "run-2", {})
    report = checked(paths)
    assert not report.findings
    assert [run.run_id for run in report.open_runs] == ["run-2"]
    repaired = record.parse(lines(paths)[-2])
    assert repaired["event"] == "RECOVERED"
    assert repaired["data"]["torn_bytes"] == 15
    (torn,) = paths.directory.glob("torn-*")
    assert torn.read_bytes() == b'{"half a record'


def test_forged_records_after_the_head_are_refused(paths: AuditPaths) -> None:
    filled(paths)
    entry = json.loads(lines(paths)[-1])
    entry |= {"seq": entry["seq"] + 1, "prev": entry["hash"], "data": {"outcome": "forged"}}
    entry["hash"] = record.digest(entry)
    with paths.chain.open("ab") as stream:
        stream.write(record.canonical(entry) + b"\n")
    with pytest.raises(ChainError, match="no valid signature"):
        Chain(paths).append("CHANGE", "r", {})
    assert "signature" in kinds(checked(paths))


def test_a_full_disk_leaves_the_chain_whole(paths: AuditPaths) -> None:
    filled(paths)
    size = paths.chain.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # The kernel writes what fits and then refuses, as a full disk does.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 200, hard))
        with pytest.raises(OSError, match="too large"):
            Chain(paths).append("CHANGE", "run-1", {"text": "x" * 4000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert paths.chain.stat().st_size == size
    Chain(paths).append("CHANGE", "run-1", {})
    assert not checked(paths).findings


def test_a_run_is_recorded_from_its_start_to_its_end(paths: AuditPaths) -> None:
    assert not run_is_recorded("run-1", paths)
    chain = Chain(paths)
    chain.append("CHANGE", "run-1", {})
    assert not run_is_recorded("run-1", paths)
    start(chain, "run-1")
    assert run_is_recorded("run-1", paths)
    assert not run_is_recorded("run-2", paths)
    chain.append("END", "run-1", {})
    assert not run_is_recorded("run-1", paths)


def test_a_start_that_was_tampered_with_does_not_count(paths: AuditPaths) -> None:
    start(Chain(paths), "run-1")
    paths.chain.write_bytes(paths.chain.read_bytes().replace(b"p.yml", b"q.yml"))
    assert not run_is_recorded("run-1", paths)


def test_runs_whose_process_is_gone_are_aborted(paths: AuditPaths) -> None:
    chain = Chain(paths)
    start(chain, "dead", gone_process())
    start(chain, "alive")
    start(chain, "before-boot", {**identity.process_identity(), "boot_id": "another"})
    start(chain, "container", {**identity.process_identity(), "pid_namespace": "pid:[1]"})
    report = checked(paths)
    assert not report.ok
    assert {run.run_id: run.state for run in report.open_runs} == {
        "dead": "gone",
        "alive": "alive",
        "before-boot": "gone",
        "container": "unknown",
    }
    with chain.session() as session:
        assert sorted(chain.abort_gone_runs(session)) == ["before-boot", "dead"]
    report = checked(paths)
    assert report.aborted == 2
    assert {run.run_id for run in report.open_runs} == {"alive", "container"}


def _append_many(directory: Path, name: str, count: int) -> None:
    chain = Chain(AuditPaths(directory), lock_timeout_s=30)
    for number in range(count):
        chain.append("CHANGE", name, {"number": number})


def test_several_processes_append_to_one_chain(paths: AuditPaths) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(paths.directory, f"w{i}", 25)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    report = checked(paths)
    assert report.ok
    assert report.records == 76


def test_a_lock_that_is_kept_is_reported(paths: AuditPaths) -> None:
    filled(paths)
    with (
        Chain(paths).locked(),
        pytest.raises(ChainError, match=r"keeps .* locked"),
    ):
        Chain(paths, lock_timeout_s=0.05).append("CHANGE", "r", {})


def test_the_command_verifies_and_shows(paths: AuditPaths, capsys: pytest.CaptureFixture[str]) -> None:
    filled(paths)
    assert command(["--directory", str(paths.directory), "verify"]) == 0
    assert "The chain is whole." in capsys.readouterr().out
    assert command(["--directory", str(paths.directory), "show", "--run", "run-1", "--last", "2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2
    assert "END" in shown[1]
    rewrite(paths, lines(paths)[:-1])
    assert command(["--directory", str(paths.directory), "verify", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["findings"][0]["kind"] == "truncated"


def test_the_command_says_what_is_not_there(paths: AuditPaths, capsys: pytest.CaptureFixture[str]) -> None:
    filled(paths)
    assert command(["--directory", str(paths.directory), "ship"]) == 2
    assert "no connection to the audit database is set up" in capsys.readouterr().err
    assert command(["--directory", str(paths.directory / "nowhere"), "show"]) == 2
    assert "No such file" in capsys.readouterr().err


def test_the_command_line_entry_reaches_it(paths: AuditPaths) -> None:
    filled(paths)
    environment = {**os.environ, "STATIONKEEPER_STATE": str(paths.directory.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "stationkeeper.cli", "audit", "verify"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "9 records, 1 runs" in done.stdout


def test_the_key_is_made_once_and_its_public_half_published(paths: AuditPaths) -> None:
    paths.directory.mkdir()
    first = load_or_create(paths.private_key, paths.keys)
    second = load_or_create(paths.private_key, paths.keys)
    assert isinstance(first, Signer)
    assert first.key_id == second.key_id
    assert [path.stem for path in paths.keys.iterdir()] == [first.key_id]
