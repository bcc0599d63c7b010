"""What the controller remembers of holds over a restart, in a file of its own."""

from __future__ import annotations

import json
from pathlib import Path

from stationkeeper.controller.orders import write_document


def read_memory(path: Path) -> dict[str, str | None]:
    """Return what was remembered; a file that cannot be understood means that the station stays idle."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {key: None if content[key] is None else str(content[key]) for key in ("window", "idle")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        return {"window": None, "idle": f"{path}: cannot be understood"}


def write_memory(path: Path, memory: dict[str, str | None]) -> str | None:
    """Keep it durably; return why that was not possible, None when it was."""
    try:
        if memory != read_memory(path):
            write_document(path, memory)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None
