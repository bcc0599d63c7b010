"""promtool, amtool and restic for the tests, without a daemon on the control node.

Debian ships them inside packages that start Prometheus and Alertmanager when they are installed, so the
packages are only downloaded and unpacked into ``.cache/tools``.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache"

# Debian 13 has promtool in a package of its own; Debian 12 has it inside prometheus.
_PACKAGES = {
    "promtool": ("promtool", "prometheus"),
    "amtool": ("prometheus-alertmanager",),
    "restic": ("restic",),
}


def tool(name: str) -> Path:
    """Return the path of a tool: the installed one, or one unpacked from a package.

    Raises:
        RuntimeError: no package could be downloaded; the message has apt's own words.
    """
    found = shutil.which(name)
    if found:
        return Path(found)
    unpacked = CACHE / "tools" / "usr" / "bin" / name
    if unpacked.exists():
        return unpacked
    said = ""
    for package in _PACKAGES[name]:
        said = _unpack(package)
        if unpacked.exists():
            return unpacked
    message = f"{name} is needed by the tests and cannot be had from Debian's packages: {said}"
    raise RuntimeError(message)


def _unpack(package: str) -> str:
    """Download one Debian package and unpack it into the cache; return what apt said when that failed."""
    downloads = CACHE / "debs"
    downloads.mkdir(parents=True, exist_ok=True)
    got = subprocess.run(
        ["apt-get", "download", "-q", package], cwd=downloads, capture_output=True, text=True, check=False
    )
    if got.returncode != 0:
        return got.stderr.strip() or "run apt-get update first"
    newest = max(downloads.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
    # Several processes of tests ask at once: what another sees under its name is whole.
    with tempfile.TemporaryDirectory(dir=CACHE) as place:
        subprocess.run(["dpkg-deb", "-x", newest, place], check=True)
        tools = CACHE / "tools" / "usr" / "bin"
        tools.mkdir(parents=True, exist_ok=True)
        for program in (Path(place) / "usr" / "bin").iterdir():
            program.replace(tools / program.name)
    return ""
