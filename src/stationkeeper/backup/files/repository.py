"""A host's repository: made once, and never silently made again."""

from __future__ import annotations

from ...files import write_atomically
from .restic import Restic, locked
from .settings import BackupError, Settings


def converge(settings: Settings, *, dry_run: bool, restic: Restic | None = None) -> bool:
    """Make the repository of a host that has none; return whether that is a change.

    Raises BackupError when it does not open, or when one that this host has used is gone; OSError.
    """
    restic = restic or Restic(settings)
    used = settings.state / "repository"
    if restic.exists():
        if not used.exists() and not dry_run:
            _remember(settings)
        return False
    if used.exists():
        message = (
            f"{settings.host} has saved to {used.read_text().strip()}, and there is no repository any more: "
            "its backups are gone, or another host answers. Bring it back; if it is lost for good, remove "
            f"{used} and converge again"
        )
        raise BackupError(message)
    if not dry_run:
        with locked(settings, wait=False):
            restic("init")
        _remember(settings)
    return True


def _remember(settings: Settings) -> None:
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(settings.state / "repository", f"{settings.repository}\n")
