"""One run of a backup: copy, save, verify, record the success, and only then prune."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...files import write_atomically
from . import copies, figures
from .restic import VERIFIED, Restic, Snapshot, locked
from .settings import BackupError, BackupSet, Settings
from .verification import prove


@dataclass
class Saved:
    """What came of one set."""

    name: str
    snapshot: str
    files: int
    bytes: int
    #: What its copies tell: of the cache the keys, and how many were compared.
    about: dict[str, Any]
    began: float
    compared: int = 0
    changed_since: int = 0


@dataclass
class Result:
    """What came of a run; also written to the host, for runbooks."""

    kind: str
    succeeded: bool = False
    began: float = 0
    ended: float = 0
    message: str = ""
    size_bytes: int = 0
    sets: list[Saved] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**vars(self), "sets": [vars(one) for one in self.sets]}


def result_path(settings: Settings, kind: str) -> Path:
    """Return where the result of the last run of a kind stands."""
    return settings.state / f"last_{kind}.json"


def run(settings: Settings, kind: str, restic: Restic | None = None) -> Result:
    """Back up all sets of a kind. Failure is in the result, and in the figures. Raises OSError for those."""
    result = Result(kind, began=time.time())
    restic = restic or Restic(settings)
    try:
        with locked(settings, wait=True):
            _run(settings, restic, result)
        result.succeeded = True
    except (BackupError, OSError, subprocess.SubprocessError) as error:
        result.message = str(error)
    finally:
        # Copies of databases are not left lying about.
        for one in settings.of_kind(kind):
            shutil.rmtree(settings.staging / one.name, ignore_errors=True)
    result.ended = time.time()
    text = json.dumps(result.as_dict(), indent=2, sort_keys=True) + "\n"
    write_atomically(result_path(settings, kind), text)
    duration = result.ended - result.began
    figures.write_run(
        settings.metrics, kind, succeeded=result.succeeded, ended=result.ended, duration_s=duration
    )
    return result


def _run(settings: Settings, restic: Restic, result: Result) -> None:
    kind = result.kind
    # Whoever held it was killed: nobody else works with this host's repository.
    restic("unlock")
    _space(settings, kind)
    saved = [(one, _save(settings, restic, one)) for one in settings.of_kind(kind)]
    result.sets = [item for _, item in saved]
    restic("check", f"--read-data-subset={settings.verify_percent}%")
    for one, item in saved:
        _verify(settings, restic, one, item)
    # Gives them other ids.
    restic("tag", "--quiet", "--add", VERIFIED, *(item.snapshot for item in result.sets))
    known = restic.snapshots()
    for item in result.sets:
        item.snapshot = [one.id for one in known if one.set == item.name and one.verified][-1]
    result.size_bytes = int(json.loads(restic("stats", "--json", "--mode=raw-data"))["total_size"])
    figures.write_success(
        settings.metrics, kind, began=result.began, verified=time.time(), size=result.size_bytes
    )
    # Only now: a run that failed leaves every older backup as it is.
    _forget(settings, restic, result, known)
    names = ", ".join(f"{item.name} ({item.files} files, {item.compared} compared)" for item in result.sets)
    result.message = f"saved and verified: {names}"


def _save(settings: Settings, restic: Restic, one: BackupSet) -> Saved:
    """Save one set. Raises BackupError when any of its data is not there or could not be read."""
    gone = [path for path in one.paths if not os.path.lexists(path)]
    if gone:
        message = f"set {one.name}: {gone[0]} is gone. Restore it with files_restore, or change the sets"
        raise BackupError(message)
    paths = [*one.paths, *(path for path in one.paths_if_present if os.path.lexists(path))]
    if not paths and not one.before:
        message = f"set {one.name} has nothing to save on this host: none of its paths is there"
        raise BackupError(message)
    about = copies.make(settings, one)
    paths.append(settings.staging / one.name)
    began = time.time()
    exclude = [*one.exclude, *copies.superseded(one)]
    summary = restic.save(paths, exclude, [f"set={one.name}", f"kind={one.kind}"])
    # Without the one that tells about the copies.
    files = int(summary["total_files_processed"]) - 1
    if not files:
        message = f"set {one.name}: its paths have no file at all"
        raise BackupError(message)
    return Saved(one.name, summary["snapshot_id"], files, int(summary["total_bytes_processed"]), about, began)


def _verify(settings: Settings, restic: Restic, one: BackupSet, item: Saved) -> None:
    staged = settings.staging / one.name
    copied = [path for path in staged.rglob("*") if path.is_file() and path.name != copies.ABOUT]
    proof = prove(settings, restic, item.snapshot, item.began, copied)
    item.compared, item.changed_since = proof.compared, proof.changed_since


def _forget(settings: Settings, restic: Restic, result: Result, known: list[Snapshot]) -> None:
    names = [item.name for item in result.sets]
    # Those that failed their verification: a newer one of the set has passed it.
    unproven = [one.id for one in known if one.set in names and not one.verified]
    if unproven:
        restic("forget", "--quiet", *unproven)
    keep = [f"--keep-daily={settings.keep_daily}", f"--keep-monthly={settings.keep_monthly}", "--prune"]
    tags = [f"--tag=set={name},{VERIFIED}" for name in names]
    restic("forget", "--quiet", "--host", settings.host, "--group-by", "host,tags", *tags, *keep)


def _space(settings: Settings, kind: str) -> None:
    """Write how full the repository is; a server that does not tell does not fail the backup."""
    if settings.ssh_config is None:
        about = os.statvfs(settings.repository)
        figures.write_space(
            settings.metrics, kind, about.f_frsize * about.f_blocks, about.f_frsize * about.f_bavail
        )
        return
    command = ["sftp", "-q", "-b", "-", "-F", str(settings.ssh_config), "backups"]
    with suppress(subprocess.TimeoutExpired):
        told = subprocess.run(
            command, input="df /repository\n", capture_output=True, text=True, check=False, timeout=60
        ).stdout
        # Size, used and available in KiB.
        found = re.search(r"^\s*(\d+)\s+\d+\s+(\d+)\s+\d+\s+\d+%", told, re.MULTILINE)
        if found:
            figures.write_space(settings.metrics, kind, int(found[1]) * 1024, int(found[2]) * 1024)
