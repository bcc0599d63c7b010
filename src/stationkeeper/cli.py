"""The ``stationkeeper`` command: each sub-package registers its own sub-commands."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

# Imported only when that sub-command is called: a station carries the package
# without the control node's libraries, and start-up stays fast.
_COMMANDS: dict[str, str] = {
    "controller": "stationkeeper.controller.command",
    "dashboards": "stationkeeper.dashboards.command",
    "simulator": "stationkeeper.simulator.command",
    "audit": "stationkeeper.audit.command",
    "runbooks": "stationkeeper.runbooks.command",
    "gaps": "stationkeeper.telemetry.command",
    "cache": "stationkeeper.hot_tier.command",
    "backfill": "stationkeeper.telemetry.backfill.command",
    "job": "stationkeeper.jobs.command",
    "secrets": "stationkeeper.secrets.command",
    "stop": "stationkeeper.stopping.command",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit code (2 for a usage error)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="stationkeeper", description=__doc__)
    parser.add_argument("command", choices=sorted(_COMMANDS), help="what to do")
    parsed = parser.parse_args(arguments[:1])
    module = importlib.import_module(_COMMANDS[parsed.command])
    result: int = module.run(arguments[1:])
    return result


if __name__ == "__main__":
    sys.exit(main())
