"""Make a backup, verify it, and only then call it a success; prune only after that."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import expiry, gauges, record
from .content import ARCHIVE_REPOSITORY, Backup, parse
from .files import figures
from .look import Look, look, verify
from .tool import LOCKED, BackupError, PgBackRest
from .verification import Problem, Report

TYPES = ("full", "diff", "incr", "archive")


@dataclass(frozen=True)
class Settings:
    """Where things are on the repository host, and what is expected of the backups."""

    stanza: str
    repository_path: Path
    metrics: Path
    state: Path
    #: Kind (``database_full``) and how old the newest good one may be, in seconds.
    objectives: tuple[tuple[str, float], ...]
    #: The account of the repository, and pgBackRest's configuration.
    user: str
    config: str

    @property
    def tool(self) -> PgBackRest:
        """Return pgBackRest for these settings."""
        return PgBackRest(self.stanza, self.user, self.config)

    @property
    def record(self) -> Path:
        """Return where the record of runs and verifications is."""
        return self.state / "database.json"


@dataclass(frozen=True)
class Outcome:
    """How a run ended, in a sentence."""

    succeeded: bool
    message: str


def back_up(settings: Settings, kind: str) -> Outcome:
    """Make a backup of a type of `TYPES`, verify and prune. Waits for another run. Raises OSError."""
    with _alone(settings):
        began = time.time()
        try:
            outcome = _back_up(settings, kind)
        except BackupError as error:
            outcome = Outcome(succeeded=False, message=str(error))
        ended = time.time()
        known = record.load(settings.record)
        known.add_run(f"database_{kind}", succeeded=outcome.succeeded, message=outcome.message, at=ended)
        record.save(settings.record, known)
        figures.write_run(
            settings.metrics,
            f"database_{kind}",
            succeeded=outcome.succeeded,
            ended=ended,
            duration_s=ended - began,
        )
    return outcome


def _back_up(settings: Settings, kind: str) -> Outcome:
    tool = settings.tool
    repository = ARCHIVE_REPOSITORY if kind == "archive" else 1
    before = {backup.label for backup in parse(tool.info(), tool.stanza).of(repository)}
    began = time.time()
    # It ends only when the WAL of its end has arrived. `check` proves no more, and fails with a dead standby.
    done = tool.run("backup", f"--type={'full' if kind == 'archive' else kind}", f"--repo={repository}")
    if done.code != 0:
        why = "another backup holds the lock; " if done.code == LOCKED else _full(settings)
        raise BackupError(f"no backup was made: {why}{done.problem}")
    took = time.time() - began
    made = [one for one in parse(tool.info(), tool.stanza).of(repository) if one.label not in before]
    if not made:
        raise BackupError("pgbackrest made no backup and calls that a success")
    new = made[-1]
    problems = verify_repository(settings, repository)
    wrong = [one.message for one in problems if one.subject in (*new.references, new.label)]
    verified = record.load(settings.record).verified_at(new)
    if wrong or verified is None:
        raise BackupError(f"{new.label} is made, and is not good: {'; '.join(wrong) or 'not verified'}")
    figures.write_success(settings.metrics, new.kind, began=new.began, verified=verified, size=new.stored)
    said = f"{describe(new)}, made in {took:.1f} s and verified"
    if problems:
        said += f"; the repository has {len(problems)} faults, see playbooks/backup_verify.yml"
    try:
        return Outcome(succeeded=True, message=f"{said}; {_prune(settings, repository)}")
    except BackupError as error:
        raise BackupError(f"{said}, but pruning failed: {error}") from error


def _full(settings: Settings) -> str:
    """Say so where the repository's disk is full: pgBackRest may only say that WAL did not arrive."""
    size, free = gauges.space(settings.repository_path)
    return f"the disk has {100 * free / size:.1f} % left; " if free < size / 20 else ""


def _prune(settings: Settings, repository: int) -> str:
    """Take away what the retention does not keep, where that is safe, and say what went."""
    tool = settings.tool
    planned = expiry.plan(tool, repository, "")
    if not planned.said:
        return "nothing to prune"
    reason = expiry.refusal(
        planned, parse(tool.info(), tool.stanza).of(repository), record.load(settings.record)
    )
    if reason:
        return f"nothing was pruned: {reason}"
    expiry.expire(tool, repository, "")
    return f"pruned {', '.join(planned.going) or 'WAL'}"


def verify_repository(settings: Settings, repository: int) -> list[Problem]:
    """Verify a whole repository; note and export what was found. Raises BackupError and OSError."""
    report, found, looked = verify(settings.tool, repository, time.time())
    note_verification(settings, repository, report, found, looked.content.of(repository))
    return found


def note_verification(
    settings: Settings, repository: int, report: Report, found: Sequence[Problem], backups: Sequence[Backup]
) -> None:
    """Note and export what a verification found. Raises OSError."""
    at = time.time()
    known = record.load(settings.record)
    known.add_verification(repository, report, found, backups, at)
    record.save(settings.record, known)
    gauges.write_verification(settings.metrics, repository, at=at, problems=len(found))


def watch(settings: Settings) -> Look:
    """Look at the repositories and export what is seen. Raises BackupError and OSError."""
    try:
        looked = look(settings.tool, time.time())
    except BackupError:
        gauges.write_watch(settings.metrics, None, at=time.time())
        raise
    gauges.write_watch(settings.metrics, looked, at=time.time())
    space = gauges.space(settings.repository_path)
    figures.write_space(settings.metrics, "database", *space)
    return looked


def describe(backup: Backup) -> str:
    """Return what a backup is, for people."""
    mib = 1024 * 1024
    sizes = f"{backup.size / mib:.1f} MiB, {backup.stored / mib:.1f} MiB in the repository"
    return f"{backup.label} ({backup.kind.removeprefix('database_')}, {sizes})"


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Wait until no other run of these settings is under way."""
    settings.state.mkdir(parents=True, exist_ok=True)
    with (settings.state / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
