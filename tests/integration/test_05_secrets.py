"""The system's own secrets are nowhere they do not belong: output, audit, journal, process list, git."""

from __future__ import annotations

from stationkeeper.secrets import leaks as git_leaks
from stationkeeper.secrets.vault import SECRETS, folder_of
from system import FIRST_CONVERGE, ROOT, LabSystem


def leaks(secrets: dict[str, str], text: str) -> list[str]:
    """Names, never values, of the secrets that stand in a text."""
    return [name for name, value in secrets.items() if value in text]


def test_not_in_the_output_or_the_audit_of_a_verbose_run_with_diff(flux: LabSystem) -> None:
    secrets = flux.secrets
    output = (flux.state / FIRST_CONVERGE).read_text()
    assert "+++ after" in output, "no task had a difference to show"
    assert leaks(secrets, output) == []
    trail = (flux.state / "audit" / "chain.jsonl").read_text()
    assert leaks(secrets, trail) == []


def test_not_in_journals_or_process_lists(flux: LabSystem) -> None:
    secrets = flux.secrets
    for host in flux.addresses:
        journal = flux.on_host(host, "journalctl", "--no-pager", "-o", "cat").stdout
        assert leaks(secrets, journal) == [], host
        # The environment of a process is readable only by its user; the arguments by everybody.
        arguments = flux.on_host(host, "ps", "axww", "-o", "args").stdout
        assert leaks(secrets, arguments) == [], host
        assert arguments


def test_world_cannot_read_files_that_hold_one(flux: LabSystem) -> None:
    secrets = flux.secrets
    for host in flux.addresses:
        patterns = [part for value in secrets.values() for part in ("-e", value)]
        found = flux.on_host(host, "grep", "-rlsF", *patterns, "/etc", "/opt", "/srv", "/home", check=False)
        for path in found.stdout.splitlines():
            mode = flux.on_host(host, "stat", "-c", "%a", path).stdout.strip()
            assert mode.endswith("0"), f"{host}:{path} has mode {mode}"


def test_not_in_git(flux: LabSystem) -> None:
    assert git_leaks.history_problems(ROOT, flux.secrets) == []


def test_the_vault_is_encrypted_and_opens_for_its_recipients_alone(flux: LabSystem) -> None:
    vault = folder_of(flux.inventory) / SECRETS
    assert leaks(flux.secrets, vault.read_text()) == []
    stranger = flux.run("env", "STATIONKEEPER_IDENTITY=/nobody", "ansible-vault", "view", vault, check=False)
    assert stranger.returncode != 0
    assert leaks(flux.secrets, stranger.stdout + stranger.stderr) == []
