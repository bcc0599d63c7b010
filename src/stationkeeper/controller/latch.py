"""The persisted emergency-stop latch of a station.

A latch is a file; a file that exists, whatever is in it, means latched. It survives restart, reboot and
deployment, because nothing but `clear_latch` removes it. Standard library only: Ansible ships this file to
the station, so that a stop needs nothing there but python3.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE_NAME = "emergency_stop.json"
DIRECTORY = Path("/var/lib/bess_controller/latch")
# A tmpfs: takes the latch when the disk is full or read-only, but forgets it at reboot.
FALLBACK_DIRECTORY = Path("/run/bess_controller/latch")


class LatchError(Exception):
    """The latch could be neither set nor cleared; the message says where and why."""


@dataclass(frozen=True)
class LatchRecord:
    """Who stopped the station, why and when. ``when`` is RFC 3339 in UTC."""

    id: str
    reason: str
    who: str
    when: str


@dataclass(frozen=True)
class LatchState:
    """What is known of the latch. ``latched`` is false only when its absence is certain."""

    latched: bool
    persistent: bool = False  # would still be there after a reboot
    locations: tuple[str, ...] = ()
    record: LatchRecord | None = None
    problems: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON and Ansible."""
        return {
            "latched": self.latched,
            "persistent": self.persistent,
            "locations": list(self.locations),
            "record": asdict(self.record) if self.record else None,
            "problems": list(self.problems),
        }


@dataclass(frozen=True)
class LatchChange:
    """Result of setting or clearing: the state before and after."""

    changed: bool
    before: LatchState
    after: LatchState
    warnings: tuple[str, ...] = field(default=())


def utc_now() -> str:
    """Return the wall clock as RFC 3339 in UTC, with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _parse(text: str) -> LatchRecord:
    data = json.loads(text)
    return LatchRecord(**{key: str(data[key]) for key in ("id", "reason", "who", "when")})


def _absence_problem(directory: Path, *, may_be_absent: bool) -> str | None:
    """Return why the missing latch file proves nothing, or None when there certainly is no latch."""
    try:
        if stat.S_ISDIR(directory.stat().st_mode):
            return None
    except FileNotFoundError:
        if may_be_absent:
            return None
    except OSError as error:
        return f"{directory}: {error.strerror}"
    # Without its directory, nobody can tell that there is no latch.
    return f"{directory}: the latch directory is missing"


def _look(directory: Path, *, directory_may_be_absent: bool) -> LatchState:
    path = directory / FILE_NAME
    try:
        # lstat, so that a dangling link counts as present.
        path.lstat()
    except FileNotFoundError:
        doubt = _absence_problem(directory, may_be_absent=directory_may_be_absent)
        return LatchState(latched=doubt is not None, problems=(doubt,) if doubt else ())
    except OSError as error:
        return LatchState(latched=True, problems=(f"{path}: {error.strerror}",))
    try:
        record = _parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        unreadable = LatchRecord(id="", reason="unreadable", who="", when="")
        problem = f"{path}: unreadable record ({type(error).__name__}); it counts as latched"
        return LatchState(latched=True, locations=(str(path),), record=unreadable, problems=(problem,))
    return LatchState(latched=True, locations=(str(path),), record=record)


def read_latch(directory: Path = DIRECTORY, fallback: Path = FALLBACK_DIRECTORY) -> LatchState:
    """Return the state of the latch. Never raises: what cannot be read counts as latched."""
    first = _look(directory, directory_may_be_absent=False)
    second = _look(fallback, directory_may_be_absent=True)
    records = [state.record for state in (first, second) if state.record]
    records.sort(key=lambda record: record.reason == "unreadable")
    return LatchState(
        latched=first.latched or second.latched,
        persistent=bool(first.locations),
        locations=first.locations + second.locations,
        record=records[0] if records else None,
        problems=first.problems + second.problems,
    )


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(directory: Path, record: LatchRecord) -> bool:
    """Put the record in place durably; False when another writer was first.

    Not by files.write_atomically, which replaces what stands, and this file must work by itself.
    """
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".latch-", dir=directory)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(asdict(record), stream, indent=2)
            stream.write("\n")
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)
            os.fsync(stream.fileno())
        try:
            # A link, unlike a rename, never replaces the record of whoever stopped first.
            os.link(temporary, directory / FILE_NAME)
        except FileExistsError:
            return False
        except PermissionError:
            # A file system without hard links.
            temporary.rename(directory / FILE_NAME)
        return True
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        _sync_directory(directory)


def _touch(directory: Path) -> None:
    """Create an empty latch: a full disk mostly still has room for a name."""
    os.close(os.open(directory / FILE_NAME, os.O_CREAT | os.O_WRONLY, 0o644))
    _sync_directory(directory)


def set_latch(
    *,
    reason: str,
    who: str,
    id: str,
    when: str | None = None,
    directory: Path = DIRECTORY,
    fallback: Path = FALLBACK_DIRECTORY,
) -> LatchChange:
    """Engage the latch; a second call keeps the first record and reports unchanged.

    When the disk takes no file, the record goes to ``fallback`` (with a warning that a reboot forgets it) and
    at least an empty latch is attempted on the disk. A latch that so far stood only in ``fallback`` is moved
    to the disk as soon as that works. Raises LatchError when no place took it.
    """
    before = read_latch(directory, fallback)
    if before.persistent:
        return LatchChange(changed=False, before=before, after=before)
    standing = before.record if before.record and before.record.reason != "unreadable" else None
    record = standing or LatchRecord(id=id, reason=reason, who=who, when=when or utc_now())
    warnings: list[str] = []
    changed = False
    try:
        changed = _write(directory, record)
    except OSError as error:
        warnings.append(
            f"{directory}: {error.strerror}; the latch stands in {fallback} until the next reboot"
        )
        with contextlib.suppress(OSError):
            _touch(directory)
            changed = True
            warnings[-1] = f"{directory}: {error.strerror}; the latch stands, its reason only in {fallback}"
        if not before.locations:
            try:
                changed = _write(fallback, record) or changed
            except OSError as second:
                warnings.append(f"{fallback}: {second.strerror}; the reason of the stop was not kept")
    after = read_latch(directory, fallback)
    if not after.locations:
        raise LatchError("the latch could not be set: " + "; ".join(warnings))
    return LatchChange(changed=changed, before=before, after=after, warnings=tuple(warnings))


def clear_latch(directory: Path = DIRECTORY, fallback: Path = FALLBACK_DIRECTORY) -> LatchChange:
    """Release the latch in both places. Raises LatchError when it still stands afterwards.

    Creates a missing latch directory, because only an existing one proves that there is no latch.
    """
    before = read_latch(directory, fallback)
    changed = False
    try:
        if not directory.is_dir():
            directory.mkdir(mode=0o755, parents=True)
            changed = True
        for place in (fallback, directory):
            try:
                (place / FILE_NAME).unlink()
            except FileNotFoundError:
                continue
            changed = True
            _sync_directory(place)
    except OSError as error:
        raise LatchError(f"the latch could not be cleared: {error.filename}: {error.strerror}") from error
    after = read_latch(directory, fallback)
    if after.latched:
        raise LatchError("the latch still stands: " + "; ".join(after.problems or after.locations))
    return LatchChange(changed=changed, before=before, after=after)
