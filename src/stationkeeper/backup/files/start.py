"""Run a backup now, by its own unit, and read what came of it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from .run import result_path
from .settings import BackupError, Settings

UNIT = "stationkeeper-file-backup@{}.service"


def start(settings: Settings, kind: str) -> dict[str, Any]:
    """Start the unit of a kind, wait for its end, and return the result that it wrote. Raises BackupError."""
    before = _written(settings, kind)
    unit = UNIT.format(kind)
    done = subprocess.run(["systemctl", "start", unit], capture_output=True, text=True, check=False)
    result = _written(settings, kind)
    if not result or result == before:
        message = (
            f"{unit} did not run: {done.stderr.strip() or 'no result was written'}; see journalctl -u {unit}"
        )
        raise BackupError(message)
    if done.returncode != 0 or not result["succeeded"]:
        # What is wrong comes first: a summary cuts the end off.
        message = f"{result['message']}; older backups are as they were"
        raise BackupError(message)
    return result


def _written(settings: Settings, kind: str) -> dict[str, Any]:
    try:
        return dict(json.loads(result_path(settings, kind).read_text()))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        message = f"{result_path(settings, kind)} is damaged: remove it and run the backup again"
        raise BackupError(message) from error
