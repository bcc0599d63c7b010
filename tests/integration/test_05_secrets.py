"""The system's own secrets are nowhere they do not belong: output, audit, journal, process list, git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from system import FIRST_CONVERGE, ROOT, LabSystem


def secrets_of(flux: LabSystem) -> dict[str, str]:
    return dict(yaml.safe_load((flux.inventory / "group_vars" / "all" / "secrets.yml").read_text()))


def leaks(secrets: dict[str, str], text: str) -> list[str]:
    """Names, never values, of the secrets that stand in a text."""
    return [name for name, value in secrets.items() if value in text]


def test_not_in_the_output_or_the_audit_of_a_verbose_run_with_diff(flux: LabSystem) -> None:
    secrets = secrets_of(flux)
    output = (flux.state / FIRST_CONVERGE).read_text()
    assert "+++ after" in output, "no task had a difference to show"
    assert leaks(secrets, output) == []
    trail = (flux.state / "audit" / "chain.jsonl").read_text()
    assert leaks(secrets, trail) == []


def test_not_in_journals_or_process_lists(flux: LabSystem) -> None:
    secrets = secrets_of(flux)
    for host in flux.addresses:
        journal = flux.on_host(host, "journalctl", "--no-pager", "-o", "cat").stdout
        assert leaks(secrets, journal) == [], host
        # The environment of a process is readable only by its user; the arguments by everybody.
        arguments = flux.on_host(host, "ps", "axww", "-o", "args").stdout
        assert leaks(secrets, arguments) == [], host
        assert arguments


def test_world_cannot_read_files_that_hold_one(flux: LabSystem) -> None:
    secrets = secrets_of(flux)
    for host in flux.addresses:
        patterns = [part for value in secrets.values() for part in ("-e", value)]
        found = flux.on_host(host, "grep", "-rlsF", *patterns, "/etc", "/opt", "/srv", "/home", check=False)
        for path in found.stdout.splitlines():
            mode = flux.on_host(host, "stat", "-c", "%a", path).stdout.strip()
            assert mode.endswith("0"), f"{host}:{path} has mode {mode}"


def test_not_in_git() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not [name for name in tracked.splitlines() if Path(name).name == "secrets.yml"]
