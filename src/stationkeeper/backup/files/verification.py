"""Prove that a snapshot can be restored: a sample of it is, and compared with what was saved byte by byte."""

from __future__ import annotations

import math
import os
import random
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .copies import ABOUT
from .restic import Restic
from .settings import BackupError, Settings

_BLOCK = 1 << 20
# A file name with one of these would be a pattern for restic.
_PATTERN = frozenset("*?[]\\")


@dataclass(frozen=True)
class Proof:
    """How many files were restored and compared, and how many had changed since they were saved."""

    compared: int
    changed_since: int


def prove(settings: Settings, restic: Restic, snapshot: str, began: float, always: Sequence[Path]) -> Proof:
    """Restore a sample of a snapshot and compare it with its origin. Raises BackupError, OSError.

    ``began`` is when saving began, in seconds since 1970: a file that changed after it cannot be compared and
    is counted apart. ``always`` are files that are in every sample, and that nobody changes.
    """
    nodes = {
        node["path"]: node
        for node in restic.files(snapshot)[1]
        if node["type"] == "file" and not _PATTERN & set(node["path"]) and not node["path"].endswith(ABOUT)
    }
    missing = [path for path in always if str(path) not in nodes]
    if missing:
        message = f"{missing[0]} is not in the snapshot that was made of it"
        raise BackupError(message)
    chosen = {str(path) for path in always}
    others = sorted(set(nodes) - chosen)
    chosen.update(random.sample(others, min(settings.sample_files, len(others))))
    if not chosen:
        return Proof(0, 0)
    compared = changed = 0
    with tempfile.TemporaryDirectory(prefix="sample-", dir=settings.state) as place:
        restic("restore", snapshot, "--target", place, *(f"--include={path}" for path in sorted(chosen)))
        for name in sorted(chosen):
            since = math.inf if Path(name) in always else began
            difference = compare(Path(name), Path(place) / name.lstrip("/"), since)
            if difference is None:
                changed += 1
            elif difference:
                message = f"{name} is not restored as it was saved: {difference}"
                raise BackupError(message)
            else:
                compared += 1
    if not compared:
        message = (
            f"all {changed} files of the sample changed while they were saved: nothing could be compared"
        )
        raise BackupError(message)
    return Proof(compared, changed)


def compare(origin: Path, restored: Path, began: float) -> str | None:
    """Return how a restored file differs (empty: not at all), None if its origin changed since."""
    if not restored.is_file():
        return "it is not there"
    try:
        before = origin.stat()
        content = same_bytes(origin, restored)
        after = origin.stat()
    except FileNotFoundError:
        return None
    if max(before.st_ctime, after.st_ctime) >= began:
        # Equal is equal, though.
        return "" if content else None
    if not content:
        return "other bytes"
    return differing_attributes(attributes(origin), attributes(restored))


def same_bytes(one: Path, other: Path) -> bool:
    """Return whether two files have the same content.

    Not filecmp: it remembers answers by size and time, which a restored file shares with what it replaces.
    """
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as left, other.open("rb") as right:
        while True:
            block = left.read(_BLOCK)
            if block != right.read(_BLOCK):
                return False
            if not block:
                return True


def attributes(path: Path) -> dict[str, Any]:
    """Return owner, group, mode, and extended attributes with ACLs of a path; links are not followed."""
    about = path.lstat()
    found: dict[str, Any] = {
        "owner": about.st_uid,
        "group": about.st_gid,
        "mode": oct(stat.S_IMODE(about.st_mode)),
    }
    for name in os.listxattr(path, follow_symlinks=False):
        # What a security module of the host itself keeps there.
        if not name.startswith("security."):
            found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found


def differing_attributes(wanted: dict[str, Any], found: dict[str, Any]) -> str:
    """Return which attributes differ, in words; nothing where none do. Pure."""
    names = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    return ", ".join(f"{name} {found.get(name)} instead of {wanted.get(name)}" for name in names)
