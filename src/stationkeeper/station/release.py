"""Install a wheelhouse on a station as a release of its own and switch to it in one step.

``<root>/releases/<content id>`` is a virtual environment and ``<root>/venv`` a symbolic link to the one
in force. A power cut at any moment leaves either the old release or the new one, never half of one.
Runs on the station with nothing but its python3 (standard library only).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

STAMP = "stationkeeper-release.json"
_KEPT = 2
_TIMEOUT_S = 900


class ReleaseError(Exception):
    """The release cannot be installed; the one in force is untouched."""


def installed(root: Path) -> str | None:
    """Return the content id of the release in force, or None when there is none that can run."""
    return _usable(root / "venv")


def _usable(release: Path) -> str | None:
    try:
        stamp = json.loads((release / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    # A system upgrade may take the interpreter away that the environment was made from.
    usable = stamp.get("python") == _python() and os.access(release / "bin" / "stationkeeper", os.X_OK)
    return str(stamp["content_id"]) if usable and "content_id" in stamp else None


def ready(root: Path, identity: str) -> bool:
    """Whether the release is on the station, whole and for the station's Python."""
    return _usable(root / "releases" / identity) == identity


def prepare(root: Path, archive: Path, identity: str) -> None:
    """Build the release beside the one in force, unless it is there.

    Raises ReleaseError when the archive is unusable or pip refuses it.
    """
    if ready(root, identity):
        return
    release = root / "releases" / identity
    if release.exists():  # the rest of an interrupted run, or an environment of another Python
        shutil.rmtree(release)
    release.parent.mkdir(parents=True, exist_ok=True)
    try:
        _build(release, archive)
    except BaseException:
        shutil.rmtree(release, ignore_errors=True)
        raise
    stamp = {"content_id": identity, "python": _python()}
    (release / STAMP).write_text(json.dumps(stamp) + "\n", encoding="utf-8")
    os.sync()  # the files first, then the link: an SD card may lose power between the two


def prune(root: Path) -> None:
    """Remove releases but the one in force and the newest other one, which is the way back."""
    in_force = (root / "venv").resolve().name
    others = [path for path in (root / "releases").iterdir() if path.is_dir() and path.name != in_force]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in others[_KEPT - 1 :]:
        shutil.rmtree(old, ignore_errors=True)


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _build(release: Path, archive: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="stationkeeper-wheels-") as scratch:
        wheels = Path(scratch)
        try:
            _unpack(archive, wheels)
        except (OSError, tarfile.TarError) as error:
            raise ReleaseError(f"wheelhouse {archive} cannot be unpacked: {error}") from error
        pip = _one(wheels, "pip-*.whl") / "pip"
        own = _one(wheels, "stationkeeper-*.whl")
        # Without ensurepip: Debian keeps that in a package of its own, and pip comes in the wheelhouse.
        _run([sys.executable, "-m", "venv", "--without-pip", str(release)])
        python = str(release / "bin" / "python")
        offline = ["install", "--quiet", "--no-index", "--disable-pip-version-check", "--no-cache-dir"]
        locked = ["--find-links", str(wheels), "--require-hashes", "-r", str(wheels / "requirements.txt")]
        _run([python, str(pip), *offline, *locked])
        _run([python, str(pip), *offline, "--no-deps", str(own)])
        _run([str(release / "bin" / "stationkeeper"), "--help"])


def _unpack(archive: Path, folder: Path) -> None:
    """Write the archive's files, and nothing outside of the folder.

    Not by ``extractall(filter="data")``: Python 3.11.2, which Debian 12 has, does not know it yet.
    """
    with tarfile.open(archive) as tar:
        for entry in tar:
            path = folder / entry.name
            content = tar.extractfile(entry) if entry.isfile() else None
            if ".." in path.parts or not path.is_relative_to(folder) or not (content or entry.isdir()):
                raise ReleaseError(
                    f"wheelhouse {archive} holds {entry.name}, which is no file of a wheelhouse"
                )
            if content is None:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with content, path.open("wb") as target:
                shutil.copyfileobj(content, target)


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise ReleaseError(f"the wheelhouse holds {len(found)} files {pattern}, exactly one is needed")
    return found[0]


def _run(command: list[str]) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PIP_CONFIG_FILE": os.devnull, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReleaseError(f"{command[0]} could not be run: {error}") from error
    if done.returncode != 0:
        raise ReleaseError(f"{' '.join(command[:4])} … failed: {done.stderr.strip()[-2000:]}")
