"""Run a program and turn its failure into a readable error."""

import subprocess

from labkit.errors import LabError


def run(*command: str, stdin: str | None = None) -> str:
    """Run a command and return its output; `LabError` with its words when it fails."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LabError(f"{command[0]} is not installed") from None
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip()
        raise LabError(f"{' '.join(command)} failed with status {done.returncode}: {words}")
    return done.stdout


def succeeds(*command: str) -> bool:
    """Say whether a command ends with status 0; its output is dropped."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0
