"""Where the lab keeps what. Nothing outside these folders is written."""

import os
from pathlib import Path

LAB_DIRECTORY = Path(__file__).resolve().parent.parent
REPOSITORY = LAB_DIRECTORY.parent

CACHE = Path("/var/cache/stationkeeper-lab")
DISKS = Path("/var/lib/stationkeeper-lab")
RUN = Path("/run/stationkeeper-lab")


def state_directory(lab: str) -> Path:
    """Folder of the control node with the ssh key and known_hosts of a lab."""
    state = os.environ.get("STATIONKEEPER_STATE") or str(REPOSITORY / ".state")
    return Path(state).absolute() / "lab" / lab


def disk_directory(lab: str) -> Path:
    """Folder with the disks of a lab's hosts."""
    return DISKS / lab


def run_directory(lab: str) -> Path:
    """Folder with what is true only while a lab is up."""
    return RUN / lab
