"""What role file_backup starts on a host: `python3 -m stationkeeper.backup.files.command run files`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .resp import Redis
from .restic import Restic
from .run import run
from .settings import KINDS, BackupError, Settings, load

SETTINGS = Path("/etc/stationkeeper/file_backup/settings.json")


def main(arguments: list[str]) -> int:
    """Run the command; 1 when it failed."""
    parser = argparse.ArgumentParser(description="Save files of this host, verified.")
    parser.add_argument("--settings", type=Path, default=SETTINGS)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="save the sets of a kind").add_argument("kind", choices=KINDS)
    commands.add_parser("list", help="list the snapshots of each set, the newest last")
    commands.add_parser("connect", help="log in to the Redis that a set is copied from, and do nothing")
    options = parser.parse_args(arguments)
    try:
        settings = load(options.settings)
        if options.command == "list":
            _list(settings)
            return 0
        if options.command == "connect":
            _connect(settings)
            return 0
        result = run(settings, options.kind)
    except (BackupError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(result.message if result.succeeded else f"the backup failed: {result.message}", file=sys.stderr)
    return 0 if result.succeeded else 1


def _connect(settings: Settings) -> None:
    if settings.redis is None:
        print("this host copies no Redis")
        return
    with Redis(settings.redis):
        print("Redis lets the backup in")


def _list(settings: Settings) -> None:
    for one in Restic(settings).snapshots():
        state = "verified" if one.verified else "not verified"
        print(f"{one.set}\t{one.id[:12]}\t{one.time}\t{state}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
