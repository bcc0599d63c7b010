"""Fill the disk of a host with one file that is removed again."""

import errno
import os
from pathlib import Path

from labkit.errors import LabError

NAME = ".lab-fill-disk"
SMALLEST = 4096


def check_place(root: Path, path: str, mountinfo: str) -> None:
    """Raise `LabError` unless `path` is a real folder on the host's own disk (no symlink, no other mount)."""
    if not path.startswith("/") or ".." in Path(path).parts:
        raise LabError(f"--path must be absolute and without '..', not {path}")
    current = root
    for part in Path(path).parts[1:]:
        current = current / part
        if current.is_symlink() or not current.is_dir():
            raise LabError(
                f"--path {path}: {current.relative_to(root)} is not a folder on the host (or a link)"
            )
    for line in mountinfo.splitlines():
        place = line.split()[4]
        if place != "/" and (path == place or path.startswith(place + "/")):
            raise LabError(f"--path {path} lies on {place}, which is not on the host's disk")


def fill(root: Path, path: str) -> None:
    """Take all free space of the disk; fast, because blocks are only reserved."""
    with (root / path.lstrip("/") / NAME).open("ab") as file:
        chunk = 1 << 30
        end = file.tell()
        while chunk >= SMALLEST:
            try:
                os.posix_fallocate(file.fileno(), end, chunk)
                end += chunk
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                chunk //= 2


def release(root: Path, path: str) -> None:
    """Remove the file."""
    (root / path.lstrip("/") / NAME).unlink(missing_ok=True)
