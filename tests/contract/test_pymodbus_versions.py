"""The client's tests pass with the oldest and with the newest pymodbus that it supports."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

OLDEST = "requirements/pymodbus-oldest.txt"
CLIENT_TESTS = ("test_modbus_client.py", "test_modbus_transports.py", "test_modbus_frames.py")


@pytest.fixture(scope="module")
def oldest(root: Path) -> Path:
    """A directory with the oldest pymodbus in it, kept in .cache; fails where it cannot be fetched."""
    pinned = _pinned(root / OLDEST)
    target = root / ".cache" / f"pymodbus-{pinned}"
    if not target.is_dir():
        new = target.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        fetched = subprocess.run(
            [*command, "--target", new, "-r", root / OLDEST], capture_output=True, text=True, check=False
        )
        if fetched.returncode:
            pytest.fail(f"pymodbus {pinned} is needed, from PyPI or its mirror: {fetched.stderr[-800:]}")
        new.rename(target)
    return target


def test_the_client_works_with_the_oldest_pymodbus(root: Path, oldest: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(oldest)}
    seen = subprocess.run(
        [sys.executable, "-c", "import pymodbus; print(pymodbus.__version__)"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.strip() == _pinned(root / OLDEST)
    tests = [str(root / "tests" / "unit" / name) for name in CLIENT_TESTS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    summary = done.stdout.splitlines()[-1]
    assert "passed" in summary
    assert not re.search("skipped|deselected|xfailed", summary), f"a test was left out: {summary}"


def test_the_unit_ring_runs_with_the_newest_pymodbus(root: Path) -> None:
    """The same tests run there with what is installed, which must be the locked 3.16."""
    locked = _pinned(root / "requirements" / "control.txt")
    assert version("pymodbus") == locked
    assert locked.startswith("3.16."), "a new pymodbus: say so here and in docs/dependencies.md"


def _pinned(requirements: Path) -> str:
    found = re.search(r"^pymodbus==(\S+)", requirements.read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return found[1]
