"""What is true while a lab is up: its record, its lock and the identity of its processes.

The folder in /run may survive a restart of the computer on unusual systems, so a record carries the boot it
belongs to, and a process is known by its number *and* its start time.
"""

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from labkit import paths
from labkit.errors import BusyError

LOCK_WAIT_S = 120.0


@dataclass(frozen=True)
class Record:
    """Who runs a lab and on which network."""

    lab: str
    owner: str
    inventory: str
    network: str
    gateway: str
    bridge: str
    boot_id: str


def boot_id() -> str:
    """Identity of this boot of the computer."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def write_json(path: Path, content: Any) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Read a file of ours; None when it is missing or was damaged by a crash."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def load(lab: str) -> Record | None:
    """Record of a lab that was brought up in this boot, else None."""
    content = read_json(paths.run_directory(lab) / "lab.json")
    if not isinstance(content, dict) or content.get("boot_id") != boot_id():
        return None
    return Record(**content)


def save(record: Record) -> None:
    """Write the record of a lab."""
    write_json(paths.run_directory(record.lab) / "lab.json", asdict(record))


def forget(lab: str) -> None:
    """Remove everything that is noted about a running lab."""
    shutil.rmtree(paths.run_directory(lab), ignore_errors=True)


def remove_lock(lab: str) -> None:
    """Remove the lock file of a lab; only its holder may."""
    (paths.RUN / f"{lab}.lock").unlink(missing_ok=True)


def all_records() -> list[Record]:
    """Records of all labs that are up."""
    if not paths.RUN.is_dir():
        return []
    found = (load(folder.name) for folder in sorted(paths.RUN.iterdir()) if folder.is_dir())
    return [record for record in found if record is not None]


@contextmanager
def locked(lab: str, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the lock of a lab; `BusyError` when another labctl keeps it for longer than `wait_s`."""
    with lock_file(paths.RUN / f"{lab}.lock", f"lab {lab}", wait_s):
        yield


@contextmanager
def lock_file(path: Path, what: str, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold a lock file; it is free as soon as its holder ends, however it ends. The holder may remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_s
    told = wait_s == 0
    while True:
        with path.open("a") as handle:
            if _take(handle, path):
                yield
                return
        if time.monotonic() > deadline:
            raise BusyError(f"another labctl has been working on {what} for {wait_s:.0f} s")
        if not told:
            print(f"waiting for another labctl that works on {what}", file=sys.stderr, flush=True)
            told = True
        time.sleep(0.2)


def _take(handle: TextIO, path: Path) -> bool:
    """Try to lock an open file; a file that was removed meanwhile locks nothing."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(handle.fileno()).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def start_time(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


def note_process(path: Path, pid: int) -> None:
    """Remember a process by number and start time."""
    write_json(path, {"pid": pid, "start": start_time(pid)})


def living_process(path: Path) -> int | None:
    """Number of the process noted in a file while it lives, else None."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("start") is None:
        return None
    pid = int(content["pid"])
    return pid if start_time(pid) == content["start"] else None
