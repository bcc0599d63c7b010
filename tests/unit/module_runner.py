"""Modules run by Ansible itself on this machine, with the plugins of this repository and no settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src"


def environment(directory: Path, package: Path | None = PACKAGE) -> dict[str, str]:
    """Return the environment for Ansible in a directory; its output is JSON.

    Modules find `package` as on the control node. Without one they have only what Ansible ships with them.
    """
    configuration = directory / "ansible.cfg"
    configuration.touch()
    return os.environ | {
        "ANSIBLE_LIBRARY": str(ROOT / "library"),
        "ANSIBLE_MODULE_UTILS": str(PACKAGE),
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_CONFIG": str(configuration),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_INJECT_INVOCATION": "true",
        "PYTHONPATH": str(package or ""),
    }


def run_module(
    directory: Path,
    name: str,
    arguments: Mapping[str, Any],
    *options: str,
    check: bool = False,
    python: str = sys.executable,
    package: Path | None = PACKAGE,
    variables: Mapping[str, str] | None = None,
    hidden: str | None = None,
) -> dict[str, Any]:
    """Run a module once and return its result; what is `hidden` must show up nowhere."""
    command = [str(Path(sys.executable).parent / "ansible"), "localhost", "-m", name, "--diff", *options]
    command += ["-a", json.dumps(arguments), "-e", f"ansible_python_interpreter={python}"]
    done = subprocess.run(
        [*command, *(["--check"] if check else [])],
        env=environment(directory, package) | dict(variables or {}),
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        timeout=200,
    )
    output = done.stdout + done.stderr
    assert hidden is None or hidden not in output
    assert done.stdout.startswith("{"), output
    assert "DEPRECATION" not in output
    result: dict[str, Any] = json.loads(done.stdout)["plays"][0]["tasks"][0]["hosts"]["localhost"]
    return result
