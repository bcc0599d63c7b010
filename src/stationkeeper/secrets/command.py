"""``stationkeeper secrets``: the vault of an inventory and who can open it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stationkeeper.secrets import files, leaks
from stationkeeper.secrets.vault import SECRETS, SecretsError, folder_of, label_of


def run(arguments: list[str]) -> int:
    """Run the sub-command; exit code 0 when it is done, 1 on an error."""
    parser = argparse.ArgumentParser(prog="stationkeeper secrets")
    commands = parser.add_subparsers(dest="action", required=True)
    verbs = {
        "init": "create the missing secrets of an inventory, encrypted",
        "recipients": "list who can open them",
        "add-recipient": "let one more person or controller open them",
        "remove-recipient": "keep somebody from opening them, with another password of the vault",
        "rekey": "give the vault another password",
    }
    for verb, says in verbs.items():
        command = commands.add_parser(verb, help=says)
        command.add_argument("inventory", type=Path, help="inventory directory, for example inventories/flux")
        if verb.endswith("-recipient"):
            command.add_argument("name", help="of the person or the controller")
        if verb == "add-recipient":
            command.add_argument("key", help="public key: age1… (age-keygen -y prints it) or ssh-ed25519 …")
    check = commands.add_parser("check", help="look for plain text in all that git holds")
    check.add_argument("repository", type=Path, nargs="?", default=Path(), help="default: where you are")
    parsed = parser.parse_args(arguments)
    try:
        if parsed.action == "check":
            return _check(parsed.repository.resolve())
        print(_act(parsed))
    except (SecretsError, OSError) as error:
        print(f"stationkeeper secrets: {error}", file=sys.stderr)
        return 1
    return 0


def _act(parsed: argparse.Namespace) -> str:
    """Do it and return what to say."""
    path = folder_of(parsed.inventory) / SECRETS
    if parsed.action == "init":
        added = files.initialise(parsed.inventory)
        return f"{path}: added {', '.join(added)}" if added else f"{path}: complete, nothing added"
    if parsed.action == "recipients":
        listed = files.recipients(parsed.inventory)
        return "\n".join(f"{name}: {key}" for name, key in sorted(listed.items()))
    if parsed.action == "add-recipient":
        files.add_recipient(parsed.inventory, parsed.name, parsed.key)
        return f"{parsed.name} can open {path}"
    if parsed.action == "remove-recipient":
        files.remove_recipient(parsed.inventory, parsed.name)
        return (
            f"{parsed.name} cannot open {path} any more. What it held is known to {parsed.name} until it is "
            "rotated"
        )
    files.rekey(parsed.inventory)
    return f"{path} has another password"


def _check(root: Path) -> int:
    """Look for secrets of every vault that can be opened; one that cannot be is told."""
    known: dict[str, str] = {}
    for folder in sorted({folder_of(path) for path in (root / "inventories").iterdir()}):
        if (folder / SECRETS).exists():
            try:
                known |= {f"{label_of(folder)}: {name}": value for name, value in files.read(folder).items()}
            except SecretsError as error:
                print(f"not looked for the values of {label_of(folder)}: {error}")
    problems = leaks.file_problems(root, leaks.tracked_files(root)) + leaks.history_problems(root, known)
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems; {len(known)} values were looked for in every version of every file")
    return 1 if problems else 0
