"""Build the second supported Ansible (core 2.21 on Python 3.13), where Python 3.13 is at hand."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".cache" / "ansible-2.21"
CORE = "ansible-core==2.21.5"
# What the plugins and modules on the control node import; the versions are those of the lock file.
LIBRARIES = (
    "ansible-runner",
    "cryptography",
    "psycopg2-binary",
    "pyarrow",
    "pydantic",
    "pymodbus",
    "pyyaml",
    "prometheus-client",
    "redis",
)


def python_3_13() -> Path | None:
    """Return a Python 3.13 that runs, or None."""
    named = shutil.which("python3.13")
    managed = sorted(Path.home().glob(".pyenv/versions/3.13*/bin/python3.13"))
    for candidate in [*([Path(named)] if named else []), *managed]:
        answer = subprocess.run([candidate, "-c", "import venv"], capture_output=True, check=False)
        if answer.returncode == 0:
            return candidate
    return None


def build() -> Path | None:
    """Build the environment, once for each set of versions; return its bin directory.

    None without Python 3.13.
    """
    python = python_3_13()
    if python is None:
        return None
    binaries = ENVIRONMENT / "bin"
    complete = ENVIRONMENT / ".complete"
    lock = (ROOT / "requirements" / "control.txt").read_text()
    pins = [CORE] + [
        f"{name}=={match[1]}"
        for name in LIBRARIES
        if (match := re.search(rf"^{name}==(\S+)", lock, re.MULTILINE | re.IGNORECASE))
    ]
    if complete.exists() and complete.read_text().split() == pins:
        return binaries
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    subprocess.run([python, "-m", "venv", ENVIRONMENT], check=True)
    subprocess.run([binaries / "pip", "install", "--quiet", *pins], check=True)
    # The collections are Python source: the first environment's serve the second one too.
    first = next((ROOT / ".venv" / "lib").glob("python3*/site-packages/ansible_collections"))
    second = next((ENVIRONMENT / "lib").glob("python3*/site-packages"))
    (second / "ansible_collections").symlink_to(first)
    complete.write_text("\n".join(pins))
    return binaries
