"""``stationkeeper secrets init INVENTORY``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stationkeeper.secrets.files import TARGET, SecretsError, initialise


def run(arguments: list[str]) -> int:
    """Run the sub-command; exit code 0 when every secret exists, 1 on an error."""
    parser = argparse.ArgumentParser(prog="stationkeeper secrets")
    commands = parser.add_subparsers(dest="action", required=True)
    init = commands.add_parser("init", help="create the missing secrets of an inventory")
    init.add_argument("inventory", type=Path, help="inventory directory, for example inventories/flux")
    parsed = parser.parse_args(arguments)
    try:
        added = initialise(parsed.inventory)
    except (SecretsError, OSError) as error:
        print(f"stationkeeper secrets: {error}", file=sys.stderr)
        return 1
    path = parsed.inventory / TARGET
    print(f"{path}: added {', '.join(added)}" if added else f"{path}: complete, nothing added")
    return 0
