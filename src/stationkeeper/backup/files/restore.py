"""Bring files back: into a directory of their own first, proven there, and from there into place."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import copies
from .restic import VERIFIED, Restic, Snapshot, locked
from .settings import BackupError, BackupSet, Settings
from .verification import attributes, differing_attributes, same_bytes

# Go's bits of a mode, as restic lists them, and the system's.
_SPECIAL = {1 << 23: stat.S_ISUID, 1 << 22: stat.S_ISGID, 1 << 20: stat.S_ISVTX}


@dataclass
class Restored:
    """What came of a restore; paths are those that the files belong to."""

    set: str
    snapshot: str
    time: str
    scratch: str
    files: int = 0
    bytes: int = 0
    created: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    unchanged: int = 0
    left_out: list[str] = field(default_factory=list)
    kept: str = ""

    @property
    def changes(self) -> list[str]:
        """What differs from the backup, as lines."""
        return [f"create {path}" for path in self.created] + [f"replace {path}" for path in self.replaced]


def to_scratch(
    settings: Settings, name: str, *, snapshot: str = "latest", only: Sequence[Path] = (), stamp: str = ""
) -> Restored:
    """Restore a set into a directory of its own, and prove it. Raises BackupError, OSError.

    restic reads every restored file again and compares it with the checksums of the snapshot; type, owner and
    mode are compared with the snapshot's list. Owners are those of the same name on this host.
    """
    one = settings.named(name)
    restic = Restic(settings)
    with locked(settings, wait=True):
        found, nodes = _choose(settings, restic, name, snapshot)
        nodes = _wanted(settings, one, nodes, only)
        scratch = (
            settings.state / "restored" / (stamp or time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())) / name
        )
        _room(settings, nodes)
        scratch.mkdir(mode=0o700, parents=True)
        include = [f"--include={_literal(path)}" for path in _roots(settings, one, only)] if only else []
        # Without a lock of restic: this host's own keeps others away, and a killed run may have left one.
        restic("restore", "--no-lock", found.id, "--target", str(scratch), "--verify", *include)
    _compare(scratch, nodes)
    return _settle(settings, one, scratch, nodes, found)


def in_place(settings: Settings, restored: Restored, *, dry_run: bool) -> None:
    """Put what was restored where it belongs; what differs is kept under a dated name before.

    Files that the backup does not have stay. Each file is replaced at once, and a run that was killed is made
    good by the next. Raises BackupError, OSError.
    """
    one = settings.named(restored.set)
    scratch = Path(restored.scratch)
    if any(step.type == "redis" for step in one.before):
        message = f"set {one.name} is the cache's: cache_restore puts it back, a file alone would be ignored"
        raise BackupError(message)
    plan = _plan(one, scratch, restored)
    if dry_run or not plan:
        return
    kept = settings.state / "replaced" / scratch.parent.name
    running = [unit for unit in one.services if _systemctl("is-active", unit)]
    _all(running, "stop")
    try:
        for path in plan:
            _put(scratch / path.relative_to("/"), path, kept)
        for path in _databases(one, plan):
            for companion in copies.companions(path):
                # It belongs to the database that was replaced, and would damage the restored one.
                _keep(companion, kept, move=True)
        wrong = [
            f"{path}: {why}" for path in plan if (why := _differs(scratch / path.relative_to("/"), path))
        ]
    finally:
        _all(running, "start")
    if wrong:
        message = f"{len(wrong)} files are not as in the backup after they were put back, first {wrong[0]}"
        raise BackupError(message)
    restored.kept = str(kept) if kept.exists() else ""
    shutil.rmtree(scratch)
    restored.scratch = ""


def _choose(
    settings: Settings, restic: Restic, name: str, snapshot: str
) -> tuple[Snapshot, list[dict[str, Any]]]:
    """Return a set's newest proven snapshot, or the one whose id begins so, with what is in it."""
    try:
        if snapshot == "latest":
            return restic.files("latest", "--host", settings.host, f"--tag=set={name},{VERIFIED}")
        found, nodes = restic.files(snapshot)
    except BackupError as error:
        if "no snapshot found" not in str(error) and "no matching ID" not in str(error):
            raise
        wanted = "proven snapshot" if snapshot == "latest" else f"snapshot {snapshot}"
        message = f"the repository of {settings.host} has no {wanted} of set {name}; a backup makes one"
        raise BackupError(message) from error
    if found.set != name:
        message = f"snapshot {snapshot} is of set {found.set or 'unknown'}, not of {name}"
        raise BackupError(message)
    return found, nodes


def _roots(settings: Settings, one: BackupSet, only: Sequence[Path]) -> list[Path]:
    """Return under which paths of a snapshot the wanted ones stand: as they are, or as a copy."""
    return [place for path in only for place in (path, copies.staged(settings, one, path))] + [
        settings.staging / one.name / copies.ABOUT
    ]


def _wanted(
    settings: Settings, one: BackupSet, nodes: list[dict[str, Any]], only: Sequence[Path]
) -> list[dict[str, Any]]:
    if not only:
        return nodes
    roots = _roots(settings, one, only)
    found = [node for node in nodes if any(Path(node["path"]).is_relative_to(root) for root in roots)]
    if len(found) < 2:
        message = f"the snapshot of set {one.name} has none of {', '.join(map(str, only))}"
        raise BackupError(message)
    return found


def _literal(path: Path) -> str:
    return "".join(f"\\{sign}" if sign in "*?[]\\" else sign for sign in str(path))


def _room(settings: Settings, nodes: list[dict[str, Any]]) -> None:
    needed = sum(node.get("size", 0) for node in nodes if node["type"] == "file")
    free = shutil.disk_usage(settings.state).free
    if needed * 1.1 > free:
        message = (
            f"{settings.state} has {free} bytes free, and the restore needs {needed}: nothing was touched"
        )
        raise BackupError(message)


def _compare(scratch: Path, nodes: list[dict[str, Any]]) -> None:
    for node in nodes:
        path = scratch / node["path"].lstrip("/")
        try:
            about = path.lstat()
        except FileNotFoundError:
            message = f"{node['path']} is in the snapshot, and was not restored"
            raise BackupError(message) from None
        mode = node["mode"] & 0o777
        mode |= sum(bit for go, bit in _SPECIAL.items() if node["mode"] & go)
        same = (about.st_uid, about.st_gid) == (node["uid"], node["gid"])
        same = same and (node["type"] == "symlink" or stat.S_IMODE(about.st_mode) == mode)
        if not same or (node["type"] == "file" and about.st_size != node.get("size", 0)):
            message = f"{node['path']} was restored with another owner, mode or size than the snapshot has"
            raise BackupError(message)


def _settle(
    settings: Settings, one: BackupSet, scratch: Path, nodes: list[dict[str, Any]], found: Snapshot
) -> Restored:
    """Give files the owners of the same name on this host, and copies the place of their originals."""
    staged = scratch / settings.staging.relative_to("/") / one.name
    about = staged / copies.ABOUT
    saved = json.loads(about.read_text())["owners"] if about.exists() else {"users": {}, "groups": {}}
    here = copies.owners()
    users = {number: here["users"].get(name, number) for name, number in saved["users"].items()}
    groups = {number: here["groups"].get(name, number) for name, number in saved["groups"].items()}
    about.unlink(missing_ok=True)
    for node in nodes:
        path = scratch / node["path"].lstrip("/")
        uid, gid = users.get(node["uid"], node["uid"]), groups.get(node["gid"], node["gid"])
        if (uid, gid) != (node["uid"], node["gid"]) and os.path.lexists(path):
            mode = path.lstat().st_mode
            os.chown(path, uid, gid, follow_symlinks=False)
            if not stat.S_ISLNK(mode):
                # A change of the owner takes these bits away.
                path.chmod(stat.S_IMODE(mode))
    files = [node for node in nodes if node["type"] == "file" and Path(node["path"]).name != copies.ABOUT]
    if staged.exists():
        for path in [path for path in staged.rglob("*") if path.is_file()]:
            place = scratch / path.relative_to(staged)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
        shutil.rmtree(scratch / settings.staging.relative_to("/"))
    result = Restored(one.name, found.id[:12], found.time, str(scratch), files=len(files))
    result.bytes = sum(node.get("size", 0) for node in files)
    return result


def _plan(one: BackupSet, scratch: Path, restored: Restored) -> list[Path]:
    """Return what must be put into place, directories before what is in them; tells `restored` of it."""
    plan = []
    own = (*one.paths, *one.paths_if_present)
    above = {parent for path in (*own, *(step.path for step in one.before)) for parent in path.parents}
    # Above the set, so not its own: /etc is as this host has it.
    parents = {path for path in above if not any(path.is_relative_to(root) for root in own)}
    for source in sorted(scratch.rglob("*")):
        path = Path("/") / source.relative_to(scratch)
        if path in parents and path.is_dir():
            continue
        if any(path.is_relative_to(other) for other in one.scratch_only):
            restored.left_out.append(str(path))
        elif not os.path.lexists(path):
            restored.created.append(str(path))
            plan.append(path)
        elif _differs(source, path):
            restored.replaced.append(str(path))
            plan.append(path)
        else:
            restored.unchanged += 1
    return plan


def _differs(source: Path, path: Path) -> str:
    """Say how a path differs from what was restored of it, or nothing."""
    if not os.path.lexists(path):
        return "it is not there"
    kinds = stat.S_IFMT(source.lstat().st_mode), stat.S_IFMT(path.lstat().st_mode)
    if kinds[0] != kinds[1]:
        return "it is of another type"
    if source.is_symlink():
        return "" if source.readlink() == path.readlink() else "it leads elsewhere"
    if source.is_file() and not same_bytes(source, path):
        return "it has other bytes"
    return differing_attributes(attributes(source), attributes(path))


def _put(source: Path, path: Path, kept: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        if os.path.lexists(path) and not path.is_dir():
            _keep(path, kept, move=True)
        path.mkdir(exist_ok=True)
        _copy_attributes(source, path)
        return
    _keep(path, kept, move=path.is_dir() and not path.is_symlink())
    new = path.with_name(f".{path.name}.restored")
    if source.is_symlink():
        new.unlink(missing_ok=True)
        new.symlink_to(source.readlink())
    else:
        shutil.copyfile(source, new)
    _copy_attributes(source, new)
    new.replace(path)


def _keep(path: Path, kept: Path, *, move: bool) -> None:
    """Put what is there aside, under a dated name."""
    if not os.path.lexists(path):
        return
    place = kept / path.relative_to("/")
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    if move:
        shutil.move(path, place)
        return
    shutil.copy2(path, place, follow_symlinks=False)
    about = path.lstat()
    os.chown(place, about.st_uid, about.st_gid, follow_symlinks=False)


def _copy_attributes(source: Path, path: Path) -> None:
    about = source.lstat()
    os.chown(path, about.st_uid, about.st_gid, follow_symlinks=False)
    # Mode, times and extended attributes, ACLs among them.
    shutil.copystat(source, path, follow_symlinks=False)


def _databases(one: BackupSet, plan: list[Path]) -> list[Path]:
    return [step.path for step in one.before if step.type == "sqlite" and step.path in plan]


def _systemctl(verb: str, unit: str) -> bool:
    return subprocess.run(["systemctl", "--quiet", verb, unit], check=False).returncode == 0


def _all(units: Sequence[str], verb: str) -> None:
    failed = [unit for unit in units if not _systemctl(verb, unit)]
    if failed:
        message = f"systemctl {verb} {failed[0]} failed: `journalctl -u {failed[0]}` says why"
        raise BackupError(message)
