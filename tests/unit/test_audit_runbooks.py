"""The runbooks audit_verify and audit_export, run by Ansible on the trail that their own runs write."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from local_project import LocalProject

from stationkeeper.audit.chain import Chain
from stationkeeper.audit.command import run as command
from stationkeeper.audit.paths import AuditPaths


@pytest.fixture
def project(tmp_path: Path) -> LocalProject:
    variables = {"stationkeeper_system": "test", "stationkeeper_state": str(tmp_path / "state")}
    return LocalProject(tmp_path, variables, {"databases": {"db": {}}})


@pytest.fixture
def paths(project: LocalProject) -> AuditPaths:
    """A trail with one record, archived, and a new chain after it."""
    paths = AuditPaths(project.path / "state" / "audit")
    paths.directory.mkdir(parents=True, mode=0o700)
    chain = Chain(paths)
    chain.append("CHANGE", "run-1", {"task": "a"})
    chain.archive("end of the year")
    chain.append("CHANGE", "run-2", {"task": "b"})
    return paths


def change_archive(paths: AuditPaths) -> None:
    (archived,) = paths.archive.glob("*.jsonl")
    archived.write_bytes(archived.read_bytes().replace(b'"task":"a"', b'"task":"c"'))


def remove_archive(paths: AuditPaths) -> None:
    (archived,) = paths.archive.glob("*.jsonl")
    archived.unlink()


def test_a_whole_trail_is_verified_and_nothing_is_changed(project: LocalProject, paths: AuditPaths) -> None:
    assert project.run("audit_verify", copies=False) == 0, project.output
    assert "records are whole, and 1 chains that were put away" in project.output
    assert not project.changed


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (change_archive, "record 2 was changed: its hash does not fit"),
        (remove_archive, "the file is missing, which chain.jsonl follows"),
    ],
)
def test_a_damaged_archive_fails_and_is_named(
    project: LocalProject, paths: AuditPaths, damage: Callable[[AuditPaths], None], told: str
) -> None:
    damage(paths)
    assert project.run("audit_verify", copies=False) != 0
    assert told in project.output, project.output


def test_without_the_copies_there_is_no_answer(project: LocalProject, paths: AuditPaths) -> None:
    assert project.run("audit_verify") != 0
    assert "no connection to the copies is set up: site.yml writes it" in project.output


def test_evidence_is_exported_and_checked_elsewhere(
    project: LocalProject, paths: AuditPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    assert project.run("audit_export", "--check", since=since) == 0, project.output
    assert "records would be written" in project.output
    folder = project.path / "state" / "evidence"
    assert not folder.exists()
    assert project.run("audit_export", since=since, reason="test") == 0, project.output
    (bundle,) = folder.iterdir()
    assert str(bundle) in project.output
    assert command(["verify", "--bundle", str(bundle), "--keys", str(paths.keys)]) == 0
    assert "The chain is whole." in capsys.readouterr().out
    assert project.run("audit_export", since=since, path=str(bundle)) != 0
    assert "exists already: name another file" in project.output


def test_a_time_that_cannot_be_is_refused(project: LocalProject, paths: AuditPaths) -> None:
    assert project.run("audit_export", since="yesterday") != 0
    assert "'yesterday' is no time with an offset" in project.output
    assert project.run("audit_export", since="2020-01-01T00:00:00Z", until="2020-02-01T00:00:00Z") != 0
    assert "no record between" in project.output
