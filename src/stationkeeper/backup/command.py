"""What the repository host's units start: `stationkeeper-backup run full`, `verify`, `watch`, `status`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from . import record
from .judgement import judge
from .look import look
from .run import TYPES, Settings, back_up, verify_repository, watch
from .tool import BackupError

SETTINGS = Path("/etc/stationkeeper/backup.json")


def settings(path: Path = SETTINGS) -> Settings:
    """Read the settings that the role wrote. Raises BackupError."""
    try:
        said = json.loads(path.read_text())
        return Settings(
            said["stanza"],
            repository_path=Path(said["repository_path"]),
            metrics=Path(said["metrics"]),
            state=Path(said["state"]),
            objectives=tuple((kind, float(limit)) for kind, limit in said["objectives"].items()),
            user=said["user"],
            config=said["config"],
        )
    except (OSError, ValueError, KeyError) as error:
        message = f"{path} cannot be read ({error}); converge this host with playbooks/site.yml"
        raise BackupError(message) from error


def main(arguments: list[str]) -> int:
    """Run a sub-command; 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="stationkeeper-backup", description="Backups of the database.")
    parser.add_argument("--settings", type=Path, default=SETTINGS)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="make, verify, prune").add_argument("type", choices=TYPES)
    verifying = commands.add_parser("verify", help="read a whole repository")
    verifying.add_argument("--repository", type=int, default=1)
    commands.add_parser("watch", help="export what the repositories hold")
    commands.add_parser("status", help="every backup, and what is wrong")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except (BackupError, OSError, ValueError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    chosen = settings(options.settings)
    if options.command == "run":
        outcome = back_up(chosen, options.type)
        print(outcome.message if outcome.succeeded else f"failed: {outcome.message}")
        return 0 if outcome.succeeded else 1
    if options.command == "verify":
        found = verify_repository(chosen, options.repository)
        print("\n".join(one.message for one in found) or f"repository {options.repository} is good")
        return 1 if found else 0
    now = time.time()
    looked = watch(chosen) if options.command == "watch" else look(chosen.tool, now)
    judgement = judge(looked, record.load(chosen.record), chosen.objectives, now)
    print("\n".join(judgement.problems if options.command == "watch" else judgement.table()) or "all is good")
    # A look that was taken is a success of `watch`, whatever it saw: its figures say that.
    return 1 if options.command == "status" and not judgement.good else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
