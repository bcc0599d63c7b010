"""The wheelhouse on the control node, and the release that a station makes of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from stationkeeper.station import controlled, deploy, gate, release, trial, wheelhouse
from stationkeeper.station.release import ReleaseError

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository that is small enough to build without any dependency."""
    root = tmp_path / "repository"
    (root / "src/stationkeeper/profiles").mkdir(parents=True)
    (root / "requirements").mkdir()
    (root / "pyproject.toml").write_text('[project]\nname = "stationkeeper"\nversion = "0.1.0"\n')
    (root / "requirements/station.txt").write_text("# nothing\n")
    (root / "requirements/hub.txt").write_text("# nothing\n")
    (root / "requirements/station-installer.txt").write_text("# nothing\n")
    (root / "src/stationkeeper/cli.py").write_text("def main() -> int:\n    return 0\n")
    (root / "src/stationkeeper/profiles/a.yaml").write_text("name: a\n")
    return root


def test_content_id_follows_sources_data_and_locks_and_nothing_else(repository: Path) -> None:
    first = wheelhouse.content_id(repository)
    assert re.fullmatch(r"[0-9a-f]{12}", first)
    (repository / "src/stationkeeper/__pycache__").mkdir()
    (repository / "src/stationkeeper/__pycache__/cli.pyc").write_bytes(b"x")
    (repository / "README.md").write_text("text")
    assert wheelhouse.content_id(repository) == first
    seen = {first}
    for name in ("src/stationkeeper/cli.py", "src/stationkeeper/profiles/a.yaml", "requirements/station.txt"):
        path = repository / name
        path.write_text(path.read_text() + "# changed\n")
        seen.add(wheelhouse.content_id(repository))
    assert len(seen) == 4


def test_a_hub_has_a_lock_and_versions_of_its_own(repository: Path, tmp_path: Path) -> None:
    station = wheelhouse.describe(repository, tmp_path, PYTHON, "x86_64")
    (repository / "requirements/hub.txt").write_text("# jobs\n")
    assert wheelhouse.describe(repository, tmp_path, PYTHON, "x86_64") == station
    hub = wheelhouse.describe(repository, tmp_path, PYTHON, "x86_64", host="hub")
    assert hub.content_id != station.content_id
    # Newer versions of a hub push out no station's.
    assert not hub.archive.match(f"{PYTHON}-x86_64-*.tar")


@pytest.mark.parametrize(
    ("python", "architecture", "word"),
    [("3.13", "armv7l", "64-bit"), ("3", "x86_64", "not of the form"), ("3.13; rm", "x86_64", "form")],
)
def test_unusable_station_is_refused_with_a_reason(
    repository: Path, tmp_path: Path, python: str, architecture: str, word: str
) -> None:
    with pytest.raises(wheelhouse.WheelhouseError, match=word):
        wheelhouse.describe(repository, tmp_path, python, architecture)


def test_existing_archive_is_not_built_again(repository: Path, tmp_path: Path) -> None:
    named = wheelhouse.describe(repository, tmp_path, PYTHON, "x86_64")
    assert not named.archive.exists()
    named.archive.write_bytes(b"")
    before = named.archive.stat().st_mtime_ns
    assert wheelhouse.ensure(repository, tmp_path, PYTHON, "x86_64").built is False
    assert named.archive.stat().st_mtime_ns == before


def test_failing_pip_leaves_no_archive(repository: Path, tmp_path: Path) -> None:
    (repository / "requirements/station.txt").write_text("pydantic==2.0 --hash=sha256:" + "0" * 64 + "\n")
    cache = tmp_path / "cache"
    with pytest.raises(wheelhouse.WheelhouseError, match="pip download failed"):
        wheelhouse.ensure(repository, cache, PYTHON, "x86_64")
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_packed_wheels_have_fixed_owners_and_times(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "b.whl").write_bytes(b"b")
    (wheels / "a.whl").write_bytes(b"a")
    archives = []
    for number, moment in enumerate((1_000_000, 2_000_000)):
        for path in wheels.iterdir():
            os.utime(path, (moment, moment))
        archives.append(tmp_path / f"{number}.tar")
        wheelhouse._pack(wheels, archives[-1])
    assert archives[0].read_bytes() == archives[1].read_bytes()


def test_station_requirements_equal_the_projects_dependencies() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = (REPOSITORY / "requirements/station.in").read_text().splitlines()
    assert sorted(line for line in lines if line and not line.startswith("#")) == sorted(
        project["dependencies"]
    )


def test_every_locked_requirement_has_a_hash() -> None:
    for name in ("station.txt", "hub.txt", "station-installer.txt"):
        text = (REPOSITORY / "requirements" / name).read_text().replace("\\\n", " ")
        requirements = [line for line in text.splitlines() if "==" in line]
        assert requirements
        assert all("--hash=sha256:" in line for line in requirements)


def _archive(tmp_path: Path, name: str = "wheelhouse.tar") -> Path:
    """A wheelhouse whose `pip` is a program that pretends to install."""
    content = tmp_path / "content"
    content.mkdir(exist_ok=True)
    pip = content / "pip-1-py3-none-any.whl"
    pip.mkdir(exist_ok=True)
    (pip / "pip").write_text(
        "import pathlib, sys\n"
        "script = pathlib.Path(sys.executable).parent / 'stationkeeper'\n"
        "script.write_text('#!/bin/sh\\nexit 0\\n')\n"
        "script.chmod(0o755)\n"
    )
    (content / "stationkeeper-0.1.0+x-py3-none-any.whl").write_bytes(b"")
    (content / "requirements.txt").write_text("")
    archive = tmp_path / name
    with tarfile.open(archive, "w") as tar:
        for path in content.iterdir():
            tar.add(path, path.name)
    return archive


def _deploy(tmp_path: Path, archive: Path, identity: str, *, dry_run: bool = False) -> deploy.Deployed:
    """Deploy on a station without a controller."""
    station = deploy.Station(tmp_path / "etc", tmp_path / "opt", tmp_path / "journal")
    controller = controlled.Controller("none.service", "", (), gate.Times(0, 0), "run")
    return deploy.deploy_package(station, archive, identity, controller, dry_run=dry_run)


def test_release_is_installed_once_and_switched_by_a_link(tmp_path: Path) -> None:
    root = tmp_path / "opt"
    archive = _archive(tmp_path)
    assert release.installed(root) is None
    assert _deploy(tmp_path, archive, "aaaaaaaaaaaa", dry_run=True).changed is True
    assert not root.exists()
    assert _deploy(tmp_path, archive, "aaaaaaaaaaaa").changed is True
    assert release.installed(root) == "aaaaaaaaaaaa"
    assert (root / "venv").is_symlink()
    assert _deploy(tmp_path, archive, "aaaaaaaaaaaa").changed is False
    for identity in ("bbbbbbbbbbbb", "cccccccccccc"):
        assert _deploy(tmp_path, archive, identity).changed is True
    assert (root / "venv").resolve().name == "cccccccccccc"
    assert len(list((root / "releases").iterdir())) == 2


@pytest.mark.parametrize("kind", ["outside", "absolute", "link"])
def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path, kind: str) -> None:
    entry = tarfile.TarInfo(
        {"outside": "../outside", "absolute": str(tmp_path / "outside"), "link": "l"}[kind]
    )
    if kind == "link":
        entry.type, entry.linkname = tarfile.SYMTYPE, str(tmp_path)
    with tarfile.open(tmp_path / "wheelhouse.tar", "w") as tar:
        tar.addfile(entry)
    with pytest.raises(ReleaseError, match="is no file of a wheelhouse"):
        _deploy(tmp_path, tmp_path / "wheelhouse.tar", "aaaaaaaaaaaa")
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "opt" / "venv").exists()


def test_broken_archive_leaves_the_release_in_force(tmp_path: Path) -> None:
    root = tmp_path / "opt"
    _deploy(tmp_path, _archive(tmp_path), "aaaaaaaaaaaa")
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"half of an archive")
    with pytest.raises(release.ReleaseError, match="cannot be unpacked"):
        _deploy(tmp_path, broken, "bbbbbbbbbbbb")
    assert release.installed(root) == "aaaaaaaaaaaa"
    assert [path.name for path in (root / "releases").iterdir()] == ["aaaaaaaaaaaa"]


def test_release_of_another_python_counts_as_missing(tmp_path: Path) -> None:
    root = tmp_path / "opt"
    archive = _archive(tmp_path)
    _deploy(tmp_path, archive, "aaaaaaaaaaaa")
    stamp = root / "venv" / release.STAMP
    stamp.write_text(json.dumps({"content_id": "aaaaaaaaaaaa", "python": "3.9"}))
    assert release.installed(root) is None
    assert _deploy(tmp_path, archive, "aaaaaaaaaaaa").changed is True


def test_directory_in_the_links_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "opt" / "venv").mkdir(parents=True)
    with pytest.raises(trial.TrialError, match="move it away"):
        _deploy(tmp_path, _archive(tmp_path), "aaaaaaaaaaaa")


def test_release_module_needs_only_the_standard_library() -> None:
    source = REPOSITORY / "src/stationkeeper/station/release.py"
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(source)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
