"""Where a control node keeps its state. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path


def repository_root() -> Path:
    """The repository that this package is installed from (editable), else the working directory."""
    candidate = Path(__file__).resolve().parents[3]
    return candidate if (candidate / "ansible.cfg").is_file() else Path.cwd()


def state_directory() -> Path:
    """``$STATIONKEEPER_STATE``, or ``.state`` in the repository."""
    configured = os.environ.get("STATIONKEEPER_STATE")
    return Path(configured) if configured else repository_root() / ".state"
