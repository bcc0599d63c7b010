"""Files that are there as a whole or not at all, also after a power cut.

Standard library only: Ansible ships this file with those that use it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: str | bytes, *, mode: int = 0o600) -> None:
    """Put a file in place durably, or leave what stands there; text is written as UTF-8.

    Nobody but the owner can read the new file before it has its ``mode``, which the umask does not narrow. A
    symbolic link at ``path`` is replaced, what it leads to is not touched. The directory must exist. Raises
    OSError: the new file then stands only where the directory itself could not be made durable.
    """
    # In the same directory, since a rename is atomic on one file system only. Made with mode 0600.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            # Before the rename, or a power cut could leave the name with an empty file behind it.
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
