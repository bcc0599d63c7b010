"""What `pgbackrest verify` found, and whether that proves anything.

Its exit code is 0 for a corrupted file, for a missing segment of WAL, and with a wrong passphrase. So its
words are read, and a backup counts as verified only when they name it as valid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .content import Backup
from .wal import Gap

#: Subject of a problem that is of the archive of WAL and of no backup.
WAL = "wal"

#: What verify is run with, so that it says all of it.
OPTIONS = ("--verbose", "--output=text", "--log-level-console=info")

_FILE = re.compile(
    r"(file missing|invalid checksum|invalid size|invalid result) (?:in )?'?([^\s':]+)'?"
    r"(?:: (?:\[\d+\])? ?(.*))?"
)
_BACKUP = re.compile(
    r"backup: ([0-9FDI_-]+), status: ([^,\n]+)(?:, total files checked: (\d+), total valid files: (\d+))?"
)
_ARCHIVE = re.compile(r"archiveId: ([0-9-]+), total WAL checked: (\d+), total valid WAL: (\d+)")
_STATUS = re.compile(r"^\s*status: (\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a subject: a backup's label, or the WAL."""

    subject: str
    message: str


@dataclass(frozen=True)
class Report:
    """What a run of `pgbackrest verify` said."""

    status: str
    #: Label to the status that verify gives it.
    backups: dict[str, str]
    #: Archive to (segments checked, segments valid).
    archives: dict[str, tuple[int, int]]
    problems: tuple[Problem, ...]
    files: int

    def proves(self, labels: Iterable[str]) -> bool:
        """Return whether every one of these backups was read and found valid."""
        return all(
            self.backups.get(label) == "valid" and all(one.subject != label for one in self.problems)
            for label in labels
        )


def parse(output: str) -> Report:
    """Return the report out of what verify printed with `OPTIONS`."""
    problems: dict[str, Problem] = {}
    for what, path, why in _FILE.findall(output):
        top = path.split("/")[0]
        subject = top if re.match(r"\d{8}-\d{6}F", top) else WAL
        detail = f": {' '.join(why.split())}" if why else ""
        # A bundle is named once for each file in it.
        problems.setdefault(path, Problem(subject, f"{what} {path}{detail}"))
    backups = _BACKUP.findall(output)
    found = _STATUS.search(output)
    return Report(
        status=found[1] if found else "none",
        backups={label: status for label, status, _, _ in backups},
        archives={name: (int(checked), int(valid)) for name, checked, valid in _ARCHIVE.findall(output)},
        problems=tuple(problems.values()),
        files=sum(int(valid or 0) for _, _, _, valid in backups),
    )


def _owned(problem: Problem, backups: Sequence[Backup]) -> Problem | None:
    """Return a problem of a segment of WAL as one of the backup that cannot be restored without it.

    None when no restore needs the segment, since it is older than every backup.
    """
    segment = re.search(r"/([0-9A-F]{24})-", problem.message)
    if problem.subject != WAL or segment is None:
        return problem
    said = f"WAL {segment[1]} is damaged"
    for backup in backups:
        if backup.wal_first <= segment[1] <= backup.wal_last:
            return Problem(backup.label, f"{said}, and backup {backup.label} needs it: {problem.message}")
    # Without the timeline, which only grows.
    if segment[1][8:] < min((backup.wal_first[8:] for backup in backups), default=""):
        return None
    return Problem(WAL, f"{said}: {problem.message}")


def problems(report: Report, backups: Sequence[Backup], gaps: Iterable[Gap], code: int) -> list[Problem]:
    """Return all that is wrong with a repository that verify was asked about."""
    found = [owned for one in report.problems if (owned := _owned(one, backups)) is not None]
    named = {one.subject for one in report.problems} | {one.subject for one in found}
    for backup in backups:
        status = report.backups.get(backup.label, "not looked at")
        if status != "valid" and backup.label not in named:
            found.append(Problem(backup.label, f"backup {backup.label} is {status}"))
        if backup.page_errors:
            message = f"backup {backup.label} has pages of the database whose checksum was wrong already"
            found.append(Problem(backup.label, message))
    for archive, (checked, valid) in report.archives.items():
        if checked != valid and WAL not in named:
            found.append(Problem(WAL, f"{checked - valid} of {checked} segments in {archive} are not valid"))
    found += [Problem(gap.label or WAL, str(gap)) for gap in gaps]
    if code != 0:
        found.append(Problem(WAL, f"verify itself ended with {code}"))
    elif report.status != "ok" and not found and not report.problems:
        found.append(Problem(WAL, f"verify calls the repository {report.status} and names no reason"))
    return found
