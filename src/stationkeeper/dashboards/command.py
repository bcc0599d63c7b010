"""``stationkeeper dashboards``: print what Grafana gets, or the queries behind it."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from stationkeeper.dashboards.provisioning import files
from stationkeeper.dashboards.queries import DEFAULT_SITES, queries


def run(arguments: list[str]) -> int:
    """Run the sub-command; return 0, or 2 for a usage error (from argparse)."""
    parser = argparse.ArgumentParser(prog="stationkeeper dashboards", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("files", help="print a JSON object: path on the Grafana host -> content")
    write = actions.add_parser(
        "write", help="write the dashboards and rules into a directory, to look at or import"
    )
    write.add_argument("directory", type=Path)
    asked = actions.add_parser("queries", help="print a JSON list of all queries, variables substituted")
    asked.add_argument("--sites", default=",".join(DEFAULT_SITES), help="sites, separated by commas")
    parsed = parser.parse_args(arguments)
    if parsed.action == "files":
        print(json.dumps(files()))
    elif parsed.action == "queries":
        print(json.dumps([asdict(query) for query in queries(parsed.sites.split(","))], indent=2))
    else:
        parsed.directory.mkdir(parents=True, exist_ok=True)
        for path, content in files().items():
            (parsed.directory / Path(path).name).write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
