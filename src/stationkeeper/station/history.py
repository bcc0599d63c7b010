"""What a station is configured with, and how it came to that. Reads only.

Runs on the station with nothing but its python3 (standard library only).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import config_release, controlled, release, trial
from .deploy import Station

_EVIDENCE = ("latch/*.json", "orders/*.json")


def tell(directory: Path, state: Path, station: Station | None = None) -> dict[str, Any]:
    """Return plain data for Ansible. Raises ConfigReleaseError or OSError for what cannot be read."""
    place = station or Station(config=directory)
    content = config_release.read(directory)
    settled = config_release.settled(directory)
    return {
        "files": content.files() if content else {},
        "evidence": {
            str(path.relative_to(state)): path.read_text(encoding="utf-8", errors="replace")
            for pattern in _EVIDENCE
            for path in sorted(state.glob(pattern))
        },
        "release": settled,
        "package": release.installed(place.package),
        "override_lines": override_lines(content.override if content else ""),
        "notes": notes(place, edited=content is not None and settled is None),
    }


def override_lines(text: str) -> list[str]:
    """Return the lines of an override that change something."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [] if [line.strip() for line in lines] in ([], ["{}"], ["---", "{}"]) else lines


def notes(station: Station, *, edited: bool) -> list[str]:
    """Return what an operator should know of the station's releases."""
    found = []
    if edited:
        found.append("the configuration was edited on the station; the next release takes the edit up")
    for name, what in ((controlled.CONFIG, "configuration"), (controlled.PACKAGE, "package")):
        slot = station.slot(name)
        open_trial = trial.pending(slot)
        if open_trial:
            found.append(
                f"the {what} {Path(open_trial.release).name} is in force since {open_trial.since} without "
                "proof; run the same procedure again"
            )
        last = (trial.history(slot) or [{}])[-1]
        if last.get("event") == "rolled_back":
            found.append(
                f"the {what} {Path(last['release']).name} was put back at {last['at']}: {last['reason']}"
            )
    return found
