"""Figures of the database's repositories for Prometheus, beside those that all backups have."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..files import write_atomically
from .look import Look

_HELP = {
    "watch_timestamp_seconds": "When the repositories of the database were last looked at",
    "repository_ok": "1 when a repository can be read",
    "wal_missing_segments": "Segments of WAL that an archive lacks",
    "wal_newest_timestamp_seconds": "When the newest segment of WAL came into an archive",
    "verification_timestamp_seconds": "When a repository was last read as a whole",
    "verification_problems": "What was wrong then",
}
_Row = tuple[str, str, float]


def write_verification(directory: Path, repository: int, *, at: float, problems: int) -> None:
    """Write when a repository was verified and what was wrong. Raises OSError."""
    rows = [
        ("verification_timestamp_seconds", str(repository), at),
        ("verification_problems", str(repository), float(problems)),
    ]
    _write(directory / f"stationkeeper_backup_verification_{repository}.prom", rows)


def write_watch(directory: Path, looked: Look | None, *, at: float) -> None:
    """Write what a look saw; ``None`` when pgBackRest did not answer at all. Raises OSError."""
    rows: list[_Row] = [("watch_timestamp_seconds", "", at)]
    if looked is None:
        rows.append(("repository_ok", "1", 0.0))
    else:
        for one in looked.content.repositories:
            key = str(one.key)
            rows.append(("repository_ok", key, float(one.key not in looked.broken)))
            if one.key in looked.gaps:
                missing = sum(gap.count for gap in looked.gaps[one.key])
                rows.append(("wal_missing_segments", key, float(missing)))
            newest = looked.newest.get(one.key)
            if newest is not None:
                rows.append(("wal_newest_timestamp_seconds", key, newest))
    _write(directory / "stationkeeper_backup_watch.prom", rows)


def space(path: Path) -> tuple[int, int]:
    """Return size and free bytes of the file system of a path. Raises OSError."""
    seen = os.statvfs(path)
    return seen.f_blocks * seen.f_frsize, seen.f_bavail * seen.f_frsize


def _write(path: Path, rows: Iterable[_Row]) -> None:
    lines = []
    # All series of a name follow its help.
    for name, label, value in sorted(rows):
        full = f"stationkeeper_backup_{name}"
        help_line = f"# HELP {full} {_HELP[name]}"
        if help_line not in lines:
            lines += [help_line, f"# TYPE {full} gauge"]
        labels = f'{{repository="{label}"}}' if label else ""
        lines.append(f"{full}{labels} {value!r}")
    # The exporter runs as another user.
    write_atomically(path, "\n".join(lines) + "\n", mode=0o644)
