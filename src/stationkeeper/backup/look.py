"""Look at the repositories: what they hold, and what of the WAL is missing. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .content import ARCHIVE_REPOSITORY, Backup, Content, parse
from .tool import BackupError, PgBackRest
from .verification import OPTIONS, Problem, Report, problems
from .verification import parse as parse_report
from .wal import Archive, Gap, Switch, gaps, histories, segments, switch

#: Segments are pushed side by side: one that is younger may have come before its forerunner.
SETTLE_S = 300.0


@dataclass(frozen=True)
class Look:
    """What there is, by repository where it is not of all."""

    content: Content
    gaps: dict[int, list[Gap]]
    #: When the newest segment of WAL came, seconds since 1970.
    newest: dict[int, float | None]
    #: Repositories that cannot be read, with the reason.
    broken: dict[int, str]


def look(tool: PgBackRest, now: float) -> Look:
    """Ask every repository. Raises BackupError when pgBackRest itself does not work."""
    content = parse(tool.info(), tool.stanza)
    broken = {one.key: one.message for one in content.repositories if not one.answers}
    found: dict[int, list[Gap]] = {}
    newest: dict[int, float | None] = {}
    for repository, archive_id in content.archives:
        if repository in broken:
            continue
        try:
            archive = _archive(tool, repository, archive_id)
        except BackupError as error:
            broken[repository] = str(error)
            continue
        backups = [one for one in content.of(repository) if one.archive == archive_id]
        start = _continuous(backups, repository)
        found.setdefault(repository, []).extend(gaps(archive, backups, start, now - SETTLE_S))
        came = [when for when in (newest.get(repository), archive.newest) if when is not None]
        newest[repository] = max(came, default=None)
    return Look(content, found, newest, broken)


def _continuous(backups: Sequence[Backup], repository: int) -> Backup | None:
    """Return the backup from which on any moment can be restored; before it, only the backups themselves."""
    if repository != ARCHIVE_REPOSITORY:
        return backups[0] if backups else None
    return next((one for one in reversed(backups) if one.type == "full"), None)


def _archive(tool: PgBackRest, repository: int, archive_id: str) -> Archive:
    directory = f"archive/{tool.stanza}/{archive_id}"
    files = {path: float(entry["time"]) for path, entry in tool.files(repository, directory).items()}
    switches: dict[int, Switch] = {}
    for timeline, path in histories(files).items():
        origin = switch(tool.read(repository, f"{directory}/{path}"))
        if origin is not None:
            switches[timeline] = origin
    return Archive(segments(files), switches)


def verify(tool: PgBackRest, repository: int, now: float) -> tuple[Report, list[Problem], Look]:
    """Read a whole repository and compare every file with its checksum. Raises BackupError."""
    before = look(tool, now)
    if repository in before.broken:
        message = f"repository {repository} cannot be read: {before.broken[repository]}"
        raise BackupError(message)
    done = tool.run("verify", *OPTIONS, f"--repo={repository}")
    report = parse_report(done.output)
    backups = before.content.of(repository)
    return report, problems(report, backups, before.gaps.get(repository, []), done.code), before
