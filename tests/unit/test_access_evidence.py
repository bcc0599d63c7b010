"""Evidence of a host: what it tells, and what it never tells."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stationkeeper.access.evidence import collect, file_hashes, memory_maps, parts, without_secrets
from stationkeeper.audit.chain import Chain
from stationkeeper.audit.command import run as audit
from stationkeeper.audit.evidence import EvidenceError, check_sealed, seal
from stationkeeper.audit.paths import AuditPaths
from stationkeeper.audit.redact import MASK, Redactor

KNOWN = "a-word-that-nobody-may-see"


def test_secrets_are_masked_line_by_line_and_keys_as_a_whole() -> None:
    lines = [
        f"started with {KNOWN}",
        "PGPASSWORD=hunter22 psql",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ",
        "-----END OPENSSH PRIVATE KEY-----",
        "an honest line",
    ]
    told = list(without_secrets(lines, Redactor([KNOWN])))
    assert told[0] == f"started with {MASK}"
    assert "hunter22" not in told[1]
    assert told[2:5] == [MASK] * 3
    assert told[5] == "an honest line"


def test_a_part_that_breaks_off_keeps_what_it_has_and_says_so(tmp_path: Path) -> None:
    def breaking() -> Iterator[str]:
        yield "one"
        raise OSError("the disk is gone")

    part = collect("journal", breaking(), tmp_path, Redactor())
    assert (part.name, part.lines, part.problem) == ("journal", 1, "the disk is gone")
    assert gzip.decompress((tmp_path / "journal.txt.gz").read_bytes()) == b"one\n"
    done = subprocess.run(
        ["sha256sum", tmp_path / "journal.txt.gz"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] == part.sha256


def test_what_is_fleeting_goes_first() -> None:
    names = list(parts(1))
    assert names[:4] == ["processes", "sockets", "network", "memory_maps"]
    assert names[-1] == "file_hashes"
    assert len(set(names)) == len(names) == 10


def test_commands_tell_what_they_print_also_of_one_that_is_missing() -> None:
    told = list(parts(1)["kernel"]())
    assert "# cat /proc/modules" in told
    assert any(line.startswith("Linux ") for line in told)


def test_mapped_files_of_this_process_are_told() -> None:
    own = [line for line in memory_maps() if line.startswith(f"{os.getpid()} ")]
    assert own[0].startswith(f"{os.getpid()} exe /")
    assert any("libc.so" in line for line in own)


def test_every_kind_of_file_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("abc")
    (tmp_path / "link").symlink_to("/nowhere")
    os.mkfifo(tmp_path / "fifo")
    told = {line.rpartition("/")[2]: line for line in file_hashes([str(tmp_path)])}
    assert told["text"].startswith("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad 100644 ")
    assert told["link"].startswith("link to /nowhere ")
    assert told["fifo"].startswith("no file ")
    assert list(file_hashes(["/no/such/place"])) == []


@pytest.fixture
def paths(tmp_path: Path) -> AuditPaths:
    made = AuditPaths(tmp_path / "audit")
    Chain(made).append("START", "run-1", {"playbook": "p.yml"})
    return made


@pytest.fixture
def sealed(paths: AuditPaths, tmp_path: Path) -> Path:
    folder = tmp_path / "evidence"
    (folder / "hub").mkdir(parents=True)
    (folder / "hub" / "journal.txt.gz").write_bytes(b"journal")
    (folder / "hub" / "units.txt.gz").write_bytes(b"units")
    assert set(seal(paths, folder, {"run": "run-1"})) == {"hub/journal.txt.gz", "hub/units.txt.gz"}
    return folder


def test_a_seal_holds_and_is_put_on_once(paths: AuditPaths, sealed: Path) -> None:
    assert check_sealed(sealed, paths.keys).ok
    assert audit(["--directory", str(paths.directory), "verify", "--sealed", str(sealed)]) == 0
    with pytest.raises(EvidenceError, match="is sealed already"):
        seal(paths, sealed, {})


def test_what_is_done_to_sealed_evidence_is_told(paths: AuditPaths, sealed: Path) -> None:
    (sealed / "hub" / "journal.txt.gz").write_bytes(b"another")
    (sealed / "hub" / "units.txt.gz").unlink()
    (sealed / "hub" / "more.txt.gz").write_bytes(b"more")
    told = [finding.message for finding in check_sealed(sealed, paths.keys).findings]
    assert told == [
        "hub/journal.txt.gz was changed",
        "hub/more.txt.gz was added",
        "hub/units.txt.gz is missing",
    ]
    assert audit(["--directory", str(paths.directory), "verify", "--sealed", str(sealed)]) == 1


def test_a_seal_that_somebody_else_put_on_is_told(paths: AuditPaths, sealed: Path, tmp_path: Path) -> None:
    other = AuditPaths(tmp_path / "other")
    Chain(other).append("START", "run-1", {"playbook": "p.yml"})
    (sealed / "manifest.json").unlink()
    seal(other, sealed, {})
    told = [finding.message for finding in check_sealed(sealed, paths.keys).findings]
    assert told == ["the manifest is not signed by a known key"]


def test_a_directory_without_a_seal_or_files_is_refused(paths: AuditPaths, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvidenceError, match="has no file"):
        seal(paths, tmp_path / "empty", {})
    assert audit(["--directory", str(paths.directory), "verify", "--sealed", str(tmp_path / "empty")]) == 2
