"""What a host needs to save its files: this program, a key of its own, and where to save to."""

from __future__ import annotations

import pkgutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...files import write_atomically
from .settings import BackupError

# All that the program imports, below the package's own directory. The files come from where this one came
# from: Ansible has brought them to the host, and only what is imported.
_PACKAGE = __package__.removesuffix(".backup.files")
_SOURCES = {
    "": ("__init__.py", "files.py"),
    ".backup": ("__init__.py",),
    ".backup.files": (
        "__init__.py",
        "command.py",
        "copies.py",
        "figures.py",
        "redis_copy.py",
        "resp.py",
        "restic.py",
        "run.py",
        "settings.py",
        "verification.py",
    ),
}
_KEY = "id_ed25519"


@dataclass(frozen=True)
class Layout:
    """Where the program, its configuration and its state are."""

    program: Path
    configuration: Path
    state: Path


def sources() -> dict[Path, bytes]:
    """Return the program's files by their place below the directory that Python finds it in."""
    found = {}
    for below, names in _SOURCES.items():
        for name in names:
            content = pkgutil.get_data(_PACKAGE + below, name)
            assert content is not None
            found[Path("stationkeeper", *below.split(".")[1:], name)] = content
    return found


def converge(layout: Layout, files: Mapping[str, str], host: str, *, dry_run: bool) -> list[str]:
    """Make program, key and configuration what they must be, and return what changes.

    ``files`` are the texts of the configuration by name; only root reads them. Raises BackupError, OSError.
    """
    changes: list[str] = []
    for directory in (layout.configuration, layout.state):
        if not directory.is_dir():
            changes.append(str(directory))
            if not dry_run:
                directory.mkdir(mode=0o700, parents=True)
    for below, content in sources().items():
        _put(layout.program / below, content, 0o644, changes, dry_run=dry_run)
    for name, text in files.items():
        _put(layout.configuration / name, text.encode(), 0o600, changes, dry_run=dry_run)
    key = layout.configuration / _KEY
    if not key.exists():
        changes.append(str(key))
        if not dry_run:
            _make_key(key, host)
    return changes


def public_key(layout: Layout) -> str:
    """Return this host's public key; empty where it has none yet. Raises OSError."""
    path = layout.configuration / f"{_KEY}.pub"
    return path.read_text().strip() if path.exists() else ""


def _put(path: Path, content: bytes, mode: int, changes: list[str], *, dry_run: bool) -> None:
    try:
        if path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
            return
    except (FileNotFoundError, NotADirectoryError):
        pass
    changes.append(str(path))
    if not dry_run:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content, mode=mode)


def _make_key(path: Path, host: str) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"backups of {host}", "-f", str(path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"no key could be made: {done.stderr.strip()}"
        raise BackupError(message)
