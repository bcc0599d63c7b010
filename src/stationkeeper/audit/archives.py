"""Chains that were put away: each is whole, and is the one that its successor names."""

from __future__ import annotations

import hashlib
from pathlib import Path

from stationkeeper.audit import record
from stationkeeper.audit.paths import AuditPaths
from stationkeeper.audit.verify import Report, verify


def verify_archives(paths: AuditPaths, key_folder: Path) -> dict[str, Report]:
    """Check every archived chain and return what was found, by its file's name.

    One that is not there any more is told, too: its successor names it. Raises KeyFileError and OSError.
    """
    reports = {
        path.name: verify(path, key_folder, head_path=path.with_suffix(".head"))
        for path in sorted(paths.archive.glob("*.jsonl"))
    }
    for chain in paths.chains:
        named = _predecessor(chain)
        if named is None:
            continue
        name, checksum = named
        content = paths.archive / name
        report = reports.setdefault(name, Report())
        if not content.exists():
            report.add("missing", f"the file is missing, which {chain.name} follows")
        elif hashlib.sha256(content.read_bytes()).hexdigest() != checksum:
            report.add("changed", f"it is not the file that {chain.name} follows")
    return reports


def _predecessor(chain: Path) -> tuple[str, str] | None:
    """Return name and checksum of the file that the first record of a chain names; None without one."""
    if not chain.exists():
        return None
    with chain.open("rb") as stream:
        try:
            data = record.parse(stream.readline())["data"]
        except record.RecordError:
            # The check of the chain itself tells of it.
            return None
    if "file" not in data.get("previous", {}):
        return None
    return str(data["previous"]["file"]), str(data["previous"]["sha256"])
