"""The newest finished dump of a database: what is in it, and whether its files are what they were.

Standard library only: Ansible ships this file to the database host.
"""

from __future__ import annotations

import hashlib
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any


def look(base: Path, database: str) -> dict[str, Any] | None:
    """Return plain data about the newest dump in a directory, or nothing. Raises OSError and ValueError."""
    found = sorted(base.glob(f"{database}-????????T??????Z"))
    if not found:
        return None
    newest = found[-1]
    manifest = json.loads((newest / "manifest.json").read_text())
    return {
        "database": database,
        "directory": str(newest),
        "began": manifest["began"],
        "age_s": int(time.time() - datetime.fromisoformat(manifest["began"]).timestamp()),
        "size_bytes": sum(path.stat().st_size for path in newest.rglob("*") if path.is_file()),
        "tables": len(manifest["tables"]),
        "rows": sum(table["rows"] for table in manifest["tables"]),
        "damaged": [name for name, sha in manifest["files"].items() if sha256(newest / name) != sha],
    }


def sha256(path: Path) -> str | None:
    """Return the SHA-256 of a file, or nothing when there is none. Raises OSError."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return None
