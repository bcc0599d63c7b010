"""Consistent copies of what changes while it is read: SQLite, Redis, what a program writes when asked."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from .redis_copy import copy_redis
from .settings import BackupError, BackupSet, RedisAddress, Settings, Step

#: Name of the file in each set's copies that tells about them.
ABOUT = ".stationkeeper.json"
_WAIT_S = 60
# What stands beside an SQLite database and belongs to it.
_COMPANIONS = ("-wal", "-shm", "-journal")


def staged(settings: Settings, one: BackupSet, path: Path) -> Path:
    """Return where the consistent copy of a path stands while its set is saved."""
    return settings.staging / one.name / path.relative_to("/")


def original(settings: Settings, one: BackupSet, path: Path) -> Path:
    """Return the place that a saved path belongs to: the opposite of `staged`."""
    base = settings.staging / one.name
    return Path("/") / path.relative_to(base) if path.is_relative_to(base) else path


def companions(path: Path) -> list[Path]:
    """Return the files that an SQLite database may have beside it."""
    return [path.with_name(path.name + suffix) for suffix in _COMPANIONS]


def superseded(one: BackupSet) -> list[str]:
    """Return what is not saved since a copy of it is: a live database is never in one state."""
    found = []
    for step in one.before:
        if step.type == "sqlite":
            found += [str(path) for path in (step.path, *companions(step.path))]
    return found


def make(settings: Settings, one: BackupSet) -> dict[str, Any]:
    """Make the copies of a set, and say whose files are whose; return what the copies tell of themselves.

    Raises BackupError, OSError.
    """
    base = settings.staging / one.name
    shutil.rmtree(base, ignore_errors=True)
    # Only root looks into it: the copies leave the protection of their own directories.
    settings.staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    base.mkdir()
    about: dict[str, Any] = {}
    for step in one.before:
        if step.type == "redis":
            about |= copy_redis(_redis(settings), _place(settings, one, step))
        elif step.type == "signal":
            _ask(step)
        elif step.path.exists():
            copy_sqlite(step.path, _place(settings, one, step))
    (base / ABOUT).write_text(json.dumps({"owners": owners(), **about}, sort_keys=True) + "\n")
    return about


def owners() -> dict[str, dict[str, int]]:
    """Return the numbers of this host's users and groups by name: on a host made anew they are others."""
    return {
        "users": {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()},
        "groups": {entry.gr_name: entry.gr_gid for entry in grp.getgrall()},
    }


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy an SQLite database as it is at one moment, whoever writes to it meanwhile. Raises BackupError.

    The copy has the owner and the mode of the database.
    """
    try:
        with (
            closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=_WAIT_S)) as live,
            closing(sqlite3.connect(target)) as copy,
        ):
            # All pages in one step: one read transaction, so a writer does not make it begin again.
            live.backup(copy, pages=-1)
            # The copy is one file without companions, whatever the database's mode is.
            copy.execute("PRAGMA journal_mode = DELETE")
            found = copy.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.Error as error:
        message = f"{source} could not be copied as one state: {error}"
        raise BackupError(message) from error
    if found != "ok":
        message = f"the copy of {source} is damaged, and so is the database most likely: {found}"
        raise BackupError(message)
    about = source.stat()
    os.chown(target, about.st_uid, about.st_gid)
    shutil.copystat(source, target)


def _place(settings: Settings, one: BackupSet, step: Step) -> Path:
    place = staged(settings, one, step.path)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _redis(settings: Settings) -> RedisAddress:
    if settings.redis is None:
        message = "a set copies Redis, and file_backup_redis does not say where it is"
        raise BackupError(message)
    return settings.redis


def _ask(step: Step) -> None:
    """Have a running unit write its file anew, and wait until it has. Raises BackupError."""
    running = subprocess.run(["systemctl", "is-active", "--quiet", step.unit], check=False).returncode == 0
    if not running:
        # It wrote the file when it ended.
        return
    before = _changed(step.path)
    subprocess.run(["systemctl", "kill", "--kill-whom=main", "--signal=USR1", step.unit], check=True)
    deadline = time.monotonic() + _WAIT_S
    while _changed(step.path) == before:
        if time.monotonic() > deadline:
            message = f"{step.unit} did not write {step.path} within {_WAIT_S} s"
            raise BackupError(message)
        time.sleep(0.1)


def _changed(path: Path) -> tuple[int, int]:
    try:
        about = path.stat()
    except FileNotFoundError:
        return 0, 0
    return about.st_ino, about.st_mtime_ns
