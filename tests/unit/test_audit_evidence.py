"""A bundle of evidence: the records of a time, checked with nothing but the bundle and the public keys."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stationkeeper.audit import record
from stationkeeper.audit.chain import Chain
from stationkeeper.audit.command import run as command
from stationkeeper.audit.evidence import EvidenceError, check, export
from stationkeeper.audit.paths import AuditPaths

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
ABOUT = {"reason": "audit of November", "by": "anna"}


@pytest.fixture
def paths(tmp_path: Path) -> AuditPaths:
    """A chain with a change in each minute from noon on; the first was archived after five."""
    paths = AuditPaths(tmp_path / "audit")
    chain = Chain(paths)
    for minute in range(10):
        if minute == 5:
            chain.archive("test")
        chain.append("CHANGE", "run-1", {"minute": minute}, at=NOON + timedelta(minutes=minute))
    return paths


def bundle(paths: AuditPaths, first: int, last: int) -> Path:
    target = paths.directory / "bundle.tar.gz"
    report = export(paths, target, NOON + timedelta(minutes=first), NOON + timedelta(minutes=last), ABOUT)
    assert report.ok, report
    return target


def files(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]  # all are files


def repacked(path: Path, content: dict[str, bytes]) -> Path:
    target = path.with_name("other.tar.gz")
    with tarfile.open(target, "w:gz") as archive:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return target


def test_it_holds_the_records_of_the_time_and_no_other(paths: AuditPaths) -> None:
    made = files(bundle(paths, 2, 4))
    (records,) = [content for name, content in made.items() if name.startswith("records/")]
    assert [json.loads(line)["data"]["minute"] for line in records.splitlines()] == [2, 3]
    assert json.loads(made["manifest.json"])["about"] == ABOUT


def test_a_time_over_two_chains_has_both(paths: AuditPaths) -> None:
    # The second one began when the test ran, and is a chain of its own with the minutes from five on.
    made = bundle(paths, 3, 8)
    report = check(made, paths.keys)
    assert report.ok
    assert len([name for name in files(made) if name.startswith("records/")]) == 2


def test_openssl_verifies_the_manifest(paths: AuditPaths, tmp_path: Path) -> None:
    made = files(bundle(paths, 2, 4))
    manifest = json.loads(made["manifest.json"])
    raw = base64.b64decode(made[f"keys/{manifest['key']}.pub"])
    # The fixed head of an Ed25519 public key in DER (RFC 8410).
    (tmp_path / "key.der").write_bytes(bytes.fromhex("302a300506032b6570032100") + raw)
    (tmp_path / "signature").write_bytes(base64.b64decode(manifest.pop("sig")))
    (tmp_path / "statement").write_bytes(b"stationkeeper-audit-evidence-v1\n" + record.canonical(manifest))
    words = ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "key.der", "-rawin"]
    words += ["-in", "statement", "-sigfile", "signature"]
    said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "Verified Successfully" in said.stdout


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("records/", lambda text: text.replace(b'"minute":2', b'"minute":7'), "record 4 was changed"),
        ("records/", lambda text: text.splitlines(keepends=True)[0], "was changed"),
        ("records/", lambda _: None, "is missing"),
        ("manifest.json", lambda text: text.replace(b"anna", b"otto"), "not signed by a known key"),
    ],
)
def test_what_was_tampered_with_is_told(
    paths: AuditPaths, name: str, change: object, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = bundle(paths, 2, 4)
    content = files(made)
    member = next(one for one in content if one.startswith(name))
    changed = change(content[member])  # type: ignore[operator]  # one of the functions above
    content = {one: data for one, data in (content | {member: changed}).items() if data is not None}
    other = repacked(made, content)
    assert command(["verify", "--bundle", str(other), "--keys", str(paths.keys)]) == 1
    assert told in capsys.readouterr().out


def test_a_bundle_that_somebody_else_signed_is_told(paths: AuditPaths, tmp_path: Path) -> None:
    other = AuditPaths(tmp_path / "other")
    Chain(other).append("CHANGE", "run-1", {}, at=NOON)
    made = other.directory / "bundle.tar.gz"
    assert export(other, made, NOON, NOON + timedelta(minutes=1), ABOUT).ok
    assert {finding.kind for finding in check(made, paths.keys).findings} == {"manifest", "key"}


def test_nonsense_and_an_empty_time_are_refused(paths: AuditPaths, tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="no record between"):
        bundle(paths, 60, 70)
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    assert command(["verify", "--bundle", str(nonsense)]) == 2
    outside = repacked(nonsense, {"../../escape": b"x"})
    with pytest.raises(EvidenceError, match="no manifest"):
        check(outside)
    assert not (tmp_path.parent / "escape").exists()
