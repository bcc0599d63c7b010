"""Build, on the control node, everything that a station or a hub needs to run this package without internet.

A wheelhouse is one tar archive for one Python version and one architecture: the locked dependencies
(checked against their hashes), pip itself, and a wheel of this repository whose version carries the
content id. The content id is a hash of sources and locks, so equal content is never built twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# For each kind of host the lock of what its environment holds. A hub also runs jobs.
DEPENDENCY_LOCKS = {"station": "requirements/station.txt", "hub": "requirements/hub.txt"}
INSTALLER_LOCK = "requirements/station-installer.txt"
_KEPT_PER_COMBINATION = 3
_PIP_TIMEOUT_S = 600
# Wheels for glibc from 2.17 on; pip takes the newest tag that a project published.
_GLIBC_TAGS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
ARCHITECTURES = ("x86_64", "aarch64")


class WheelhouseError(Exception):
    """The wheelhouse cannot be built; the message says what to do."""


@dataclass(frozen=True)
class Wheelhouse:
    """One built (or, in check mode, only named) wheelhouse."""

    content_id: str
    archive: Path
    built: bool


def content_id(repository: Path, host: str = "station") -> str:
    """Return 12 hex digits over the package's sources, its build file and both locks."""
    files = [repository / "pyproject.toml", *_locks(repository, host)]
    files += sorted(
        path
        for path in (repository / "src" / "stationkeeper").rglob("*")
        if path.is_file() and path.suffix in {".py", ".yaml"}
    )
    digest = hashlib.sha256()
    for path in files:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise WheelhouseError(f"{path} cannot be read: {error.strerror}") from error
        digest.update(f"{path.relative_to(repository)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


def _locks(repository: Path, host: str) -> list[Path]:
    return [repository / DEPENDENCY_LOCKS[host], repository / INSTALLER_LOCK]


def _prefix(python: str, architecture: str, host: str) -> str:
    """Name a combination; stations and hubs keep their versions apart."""
    return f"{'' if host == 'station' else host + '-'}{python}-{architecture}-"


def kept(cache: Path, python: str, architecture: str, identity: str, *, host: str = "station") -> Wheelhouse:
    """Return a wheelhouse of another version that was built before. Raises WheelhouseError."""
    if not re.fullmatch(r"[0-9a-f]{12}", identity):
        raise WheelhouseError(f"version {identity!r} is no content id of 12 hex digits")
    prefix = _prefix(python, architecture, host)
    archive = cache / f"{prefix}{identity}.tar"
    if not archive.exists():
        others = sorted(path.stem.removeprefix(prefix) for path in cache.glob(f"{prefix}*.tar"))
        raise WheelhouseError(
            f"there is no wheelhouse of version {identity} for Python {python} on {architecture}; kept are "
            f"{', '.join(others) or 'none'}. Check that version out and roll it out without naming it"
        )
    return Wheelhouse(identity, archive, built=False)


def describe(
    repository: Path, cache: Path, python: str, architecture: str, *, host: str = "station"
) -> Wheelhouse:
    """Name the wheelhouse for ``python`` (as ``3.13``) and ``architecture`` without building it."""
    if not re.fullmatch(r"3\.\d{1,2}", python):
        raise WheelhouseError(f"Python version {python!r} is not of the form 3.13")
    if architecture not in ARCHITECTURES:
        raise WheelhouseError(
            f"no wheels are published for architecture {architecture!r}; a station needs one of "
            f"{', '.join(ARCHITECTURES)} (a Raspberry Pi needs the 64-bit system)"
        )
    identity = content_id(repository, host)
    archive = cache / f"{_prefix(python, architecture, host)}{identity}.tar"
    return Wheelhouse(identity, archive, built=False)


def ensure(
    repository: Path, cache: Path, python: str, architecture: str, *, host: str = "station"
) -> Wheelhouse:
    """Build the wheelhouse unless it is there; runs of many hosts at once build it once."""
    named = describe(repository, cache, python, architecture, host=host)
    if named.archive.exists():
        return named
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / ".lock"):
        if named.archive.exists():
            return named
        dependencies = _dependencies(_locks(repository, host), cache, python, architecture)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".build-") as scratch:
            wheels = Path(scratch) / "wheels"
            shutil.copytree(dependencies, wheels, copy_function=os.link)
            _own_wheel(repository, named.content_id, wheels)
            packed = Path(scratch) / "packed.tar"
            _pack(wheels, packed)
            packed.replace(named.archive)
        _prune(cache, f"{_prefix(python, architecture, host)}*.tar", keep=_KEPT_PER_COMBINATION)
    return Wheelhouse(named.content_id, named.archive, built=True)


def _dependencies(locks: list[Path], cache: Path, python: str, architecture: str) -> Path:
    """Download the locked wheels once per lock, so that a change of our source costs no download."""
    digest = hashlib.sha256(b"\0".join(lock.read_bytes() for lock in locks)).hexdigest()[:12]
    target = cache / f"dependencies-{python}-{architecture}-{digest}"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as scratch:
        wheels = Path(scratch) / "wheels"
        platforms = [f"--platform={tag}_{architecture}" for tag in _GLIBC_TAGS]
        for lock in locks:
            _pip(
                "download",
                "--only-binary=:all:",
                "--require-hashes",
                "--implementation=cp",
                f"--python-version={python}",
                *platforms,
                f"--dest={wheels}",
                f"--requirement={lock}",
            )
        shutil.copyfile(locks[0], wheels / "requirements.txt")
        wheels.replace(target)
    return target


def _own_wheel(repository: Path, identity: str, wheels: Path) -> None:
    """Build this repository's wheel with the content id as the local part of its version."""
    with tempfile.TemporaryDirectory(prefix="stationkeeper-wheel-") as scratch:
        stage = Path(scratch)
        project = (repository / "pyproject.toml").read_text(encoding="utf-8")
        marked, count = re.subn(
            r'^version = "([0-9][0-9.]*)"$', rf'version = "\1+{identity}"', project, flags=re.M
        )
        if count != 1:
            raise WheelhouseError('pyproject.toml has no line `version = "X.Y.Z"` that could be marked')
        (stage / "pyproject.toml").write_text(marked, encoding="utf-8")
        readme = repository / "README.md"
        (stage / "README.md").write_text(readme.read_text(encoding="utf-8") if readme.exists() else "")
        shutil.copytree(
            repository / "src" / "stationkeeper",
            stage / "src" / "stationkeeper",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        _pip("wheel", "--no-deps", f"--wheel-dir={wheels}", str(stage))


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise WheelhouseError(f"pip {arguments[0]} did not end within {_PIP_TIMEOUT_S} s") from error
    if done.returncode != 0:
        last = "\n".join(line for line in done.stderr.splitlines() if "WARNING" not in line)[-2000:]
        raise WheelhouseError(f"pip {arguments[0]} failed on the control node (it needs PyPI):\n{last}")


def _pack(wheels: Path, archive: Path) -> None:
    """Write a tar with fixed owners and times: the same wheels give the same bytes."""
    with tarfile.open(archive, "w") as tar:
        for path in sorted(wheels.iterdir()):
            entry = tarfile.TarInfo(path.name)
            entry.size = path.stat().st_size
            entry.mode = 0o644
            with path.open("rb") as content:
                tar.addfile(entry, content)


def _prune(cache: Path, pattern: str, keep: int) -> None:
    newest_first = sorted(cache.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in newest_first[keep:]:
        old.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
