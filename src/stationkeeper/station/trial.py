"""Releases on trial: a new release counts as proven only after its health gate.

A slot is a symbolic link to the release in force. Before a new release is switched in, a marker says what it
replaces; the marker goes when the gate has passed. Nobody may be there to see the gate through: the power
goes, or the run that watches is killed. So the controller's unit runs this file before each of its starts
(``ExecStartPre``). A release on trial may be started so often; after that the release before it is put back.
Every switch back is recorded with its reason in the slot's journal.

Standard library only, without other files of the package: it runs on the station with nothing but its
python3.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DIRECTORY = Path("/var/lib/stationkeeper/releases")
# The start that the switch itself makes, and one more: a station may be switched off at the wrong moment.
STARTS_ALLOWED = 2
_JOURNAL_LINES = 200


class TrialError(Exception):
    """A marker or a link cannot be used; the text names the file."""


@dataclass(frozen=True)
class Slot:
    """One link, for example ``/opt/stationkeeper/venv``; ``directory`` holds its marker and its journal."""

    name: str
    link: Path
    directory: Path = DIRECTORY

    @property
    def marker(self) -> Path:
        """The file that says which release is on trial."""
        return self.directory / f"{self.name}.trial.json"

    @property
    def journal(self) -> Path:
        """One line of JSON for each switch."""
        return self.directory / f"{self.name}.jsonl"


@dataclass(frozen=True)
class Trial:
    """A release that is in force without proof. Releases are the targets of the link, as text."""

    link: str
    before: str
    release: str
    since: str
    run_id: str
    starts: int = 0


def point(link: Path, release: str) -> None:
    """Make ``link`` point to ``release`` in one step, durably. Raises TrialError or OSError."""
    if link.is_dir() and not link.is_symlink():
        raise TrialError(f"{link} is a directory, not the link to a release; move it away and run again")
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(release)
    fresh.replace(link)
    sync_directory(link.parent)


def target(link: Path) -> str | None:
    """Return what the link points to, as it is written there, None when there is no link."""
    try:
        return str(link.readlink())
    except OSError:
        return None


def begin(slot: Slot, release: str, run_id: str) -> Trial:
    """Mark ``release`` as on trial.

    A trial that was never decided keeps the proven release as its way back.
    """
    with _locked(slot.directory):
        open_trial = pending(slot)
        before = open_trial.before if open_trial else target(slot.link)
        if before is None:
            raise TrialError(f"{slot.link} points to no release that could be put back")
        trial = Trial(str(slot.link), before, release, _now(), run_id)
        _write(slot.marker, asdict(trial))
    return trial


def pending(slot: Slot) -> Trial | None:
    """Return the trial that waits for its verdict. A marker that cannot be read is no trial."""
    try:
        return Trial(**json.loads(slot.marker.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def passed(slot: Slot, reason: str) -> None:
    """End the trial: its release is proven."""
    _end(slot, "proven", reason, back=False)


def failed(slot: Slot, reason: str) -> str | None:
    """End the trial: put the release before it back and return its link target (None: there is no trial)."""
    return _end(slot, "rolled_back", reason, back=True)


def _end(slot: Slot, event: str, reason: str, *, back: bool) -> str | None:
    with _locked(slot.directory):
        trial = pending(slot)
        if trial is None:
            return None
        if back:
            point(slot.link, trial.before)
        record(slot, event, reason, release=trial.release, before=trial.before, run_id=trial.run_id)
        slot.marker.unlink()
        sync_directory(slot.directory)
        return trial.before


def record(slot: Slot, event: str, reason: str, **more: Any) -> None:
    """Add one line to the journal, which keeps its newest lines."""
    slot.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    lines = _lines(slot.journal)[-_JOURNAL_LINES + 1 :]
    lines.append(json.dumps({"at": _now(), "event": event, "reason": reason, **more}))
    _write_text(slot.journal, "".join(f"{line}\n" for line in lines))


def history(slot: Slot) -> list[dict[str, Any]]:
    """Return the journal, the oldest entry first."""
    return [json.loads(line) for line in _lines(slot.journal)]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def count_start(directory: Path = DIRECTORY) -> list[str]:
    """Note one more start of the controller; put back what was started too often. Returns what was done."""
    done = []
    for marker in sorted(directory.glob("*.trial.json")):
        name = marker.name.removesuffix(".trial.json")
        trial = pending(Slot(name, Path("/nowhere"), directory))
        if trial is None:
            continue
        slot = Slot(name, Path(trial.link), directory)
        starts = trial.starts + 1
        if starts > STARTS_ALLOWED:
            reason = f"the controller started {starts} times and never passed the health gate"
            failed(slot, reason)
            done.append(
                f"{name}: {trial.release} on trial since {trial.since}: {reason}; put back {trial.before}"
            )
        else:
            with _locked(directory):
                _write(marker, asdict(trial) | {"starts": starts})
    return done


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, content: dict[str, Any]) -> None:
    _write_text(path, json.dumps(content) + "\n")


def _write_text(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fchmod(stream.fileno(), 0o644)
        os.fsync(stream.fileno())
    Path(name).replace(path)
    sync_directory(path.parent)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    # The controller starts whatever happens here: the unit ignores the exit code.
    for line in count_start():
        print(line, file=sys.stderr)
