"""A file system that really fills."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def mounted(size: str) -> Iterator[Path]:
    """Mount a tmpfs of ``size`` (like ``2m``) for a while."""
    assert os.geteuid() == 0, "mounting a small file system needs root"
    directory = Path(tempfile.mkdtemp(prefix="sk-small-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "sk-small", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)
        shutil.rmtree(directory)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 4096)
