"""The system's own secrets are nowhere they do not belong: output, audit, journal, process list, git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from system import ROOT, LabSystem

STATION = "wlce"


def secrets_of(flux: LabSystem) -> dict[str, str]:
    return dict(yaml.safe_load((flux.inventory / "group_vars" / "all" / "secrets.yml").read_text()))


def leaks(secrets: dict[str, str], text: str) -> list[str]:
    """Names, never values, of the secrets that stand in a text."""
    return [name for name, value in secrets.items() if value in text]


def test_not_in_the_output_or_the_audit_of_a_verbose_run_with_diff(flux: LabSystem) -> None:
    # Every secret is another one than on the hosts, so each task that carries one has a difference to show.
    path = flux.inventory / "group_vars" / "all" / "secrets.yml"
    original = path.read_text()
    old = secrets_of(flux)
    try:
        path.write_text(yaml.safe_dump({name: value[::-1] for name, value in old.items()}))
        # One station stands for all: they have the same tasks.
        hosts = f"localhost,fluxdb,fluxhub,{STATION}"
        play = flux.playbook("site", None, "--check", "--diff", "-vvv", "--limit", hosts)
        new = secrets_of(flux)
    finally:
        path.write_text(original)
    assert play.code == 0, play.output[-3000:]
    assert set(play.changed) >= {"fluxhub", STATION}, "the planted secrets went through no task"
    trail = (flux.state / "audit" / "chain.jsonl").read_text()
    for secrets in (old, new):
        assert leaks(secrets, play.output) == []
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
