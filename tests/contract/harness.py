"""Where the repository is, and how the tests run Ansible: in this environment and in a second one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECOND_ANSIBLE = "STATIONKEEPER_SECOND_ANSIBLE"


@dataclass(frozen=True)
class Environment:
    """The bin directory of an environment with Ansible in it."""

    name: str
    bin: Path

    def run(
        self, arguments: Sequence[str], directory: Path, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment, with nothing of the caller's Ansible settings."""
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("ANSIBLE_", "STATIONKEEPER_"))
        }
        environment = {
            **kept,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "ANSIBLE_NOCOLOR": "1",
            # No vault is opened, and Ansible takes no empty list: some file as a password.
            "ANSIBLE_VAULT_IDENTITY_LIST": f"none@{__file__}",
            **variables,
        }
        return subprocess.run(
            list(arguments), cwd=directory, env=environment, capture_output=True, text=True, check=False
        )


def environments() -> list[Environment]:
    """This environment, and the second one when it is given."""
    found = [Environment("this", Path(sys.executable).parent)]
    second = os.environ.get(SECOND_ANSIBLE)
    if second:
        found.append(Environment("second", Path(second)))
    return found
