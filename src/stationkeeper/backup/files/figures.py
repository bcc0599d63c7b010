"""Figures of backups for Prometheus, as files that node_exporter's textfile collector reads.

Two files for each kind: of the last run, and of the last success. So a failure leaves the success as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...files import write_atomically

_HELP = {
    "last_run_success": "1 when the last run of the backup was saved and verified",
    "last_run_timestamp_seconds": "When the last run of the backup ended",
    "duration_seconds": "How long the last run took",
    "last_success_timestamp_seconds": "When the last run that was saved and verified began",
    "verified_timestamp_seconds": "When a backup was last restored in part and compared",
    "size_bytes": "What the backups take in the repository",
    "repository_size_bytes": "Size of the file system of the repository",
    "repository_free_bytes": "What is free of it",
}


def write_run(directory: Path, kind: str, *, succeeded: bool, ended: float, duration_s: float) -> None:
    """Write how the last run ended. Raises OSError."""
    figures = {
        "last_run_success": float(succeeded),
        "last_run_timestamp_seconds": ended,
        "duration_seconds": duration_s,
    }
    _write(directory / f"stationkeeper_backup_{kind}_run.prom", kind, figures)


def write_space(directory: Path, kind: str, size: int, free: int) -> None:
    """Write how full the repository is, in bytes. Raises OSError."""
    figures = {"repository_size_bytes": float(size), "repository_free_bytes": float(free)}
    _write(directory / f"stationkeeper_backup_{kind}_repository.prom", kind, figures)


def write_success(directory: Path, kind: str, *, began: float, verified: float, size: int) -> None:
    """Write of when the data is that is saved and verified, and its size in bytes. Raises OSError."""
    figures = {
        "last_success_timestamp_seconds": began,
        "verified_timestamp_seconds": verified,
        "size_bytes": float(size),
    }
    _write(directory / f"stationkeeper_backup_{kind}_success.prom", kind, figures)


def _write(path: Path, kind: str, figures: Mapping[str, float]) -> None:
    lines = []
    for name, value in figures.items():
        full = f"stationkeeper_backup_{name}"
        lines += [
            f"# HELP {full} {_HELP[name]}",
            f"# TYPE {full} gauge",
            f'{full}{{kind="{kind}"}} {value!r}',
        ]
    # The exporter runs as another user.
    write_atomically(path, "\n".join(lines) + "\n", mode=0o644)
