"""``stationkeeper runbooks``: list runbooks, write their pages, show what is pending."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

import yaml

from stationkeeper.runbooks import documentation, pending, state
from stationkeeper.runbooks.catalogue import catalogue


def run(arguments: list[str]) -> int:
    """Run one sub-command; 0 for success, 1 when something is wrong, 2 for a usage error."""
    parser = argparse.ArgumentParser(prog="stationkeeper runbooks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    parser.add_argument("--root", type=Path, default=state.repository_root(), help="the repository")
    commands.add_parser("list", help="list the runbooks")
    docs = commands.add_parser("docs", help="write the pages of runbooks and roles")
    docs.add_argument("--check", action="store_true", help="write nothing; fail when a page is not current")
    waiting = commands.add_parser("pending", help="list the hosts that runbooks still have to reach")
    waiting.add_argument("--state", type=Path, default=None, help="the state directory")
    options = parser.parse_args(arguments)
    if options.command == "pending":
        return _pending(options.state or state.state_directory())
    return _list(options.root) if options.command == "list" else _docs(options.root, check=options.check)


def _list(root: Path) -> int:
    runbooks, errors = catalogue(root)
    for runbook in runbooks:
        print(f"{runbook.name:<32} {runbook.description.risk:<12} {runbook.description.title}")
    return _complain([str(error) for error in errors])


def _docs(root: Path, *, check: bool) -> int:
    runbooks, errors = catalogue(root)
    if errors:
        return _complain([str(error) for error in errors])
    try:
        pages = documentation.all_pages(root, runbooks)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        return _complain([f"A role's meta file cannot be read: {error}"])
    if check:
        return _complain(documentation.stale_pages(root, pages))
    touched = documentation.write_pages(root, pages)
    print("\n".join(touched) if touched else f"{len(pages)} pages are current.")
    return 0


def _pending(directory: Path) -> int:
    now = datetime.now(UTC)
    rows = []
    try:
        for ledger in pending.all_ledgers(directory / "pending"):
            for host, entry in sorted(ledger.entries().items()):
                until = "EXPIRED" if entry.expired(now) else f"until {entry.expires_at}"
                rows.append(
                    f"{ledger.runbook:<28} {host:<16} {until:<32} since {entry.since}: {entry.reason}"
                )
    except pending.LedgerError as error:
        return _complain([str(error)])
    print("\n".join(rows) if rows else "Nothing is pending.")
    return 0


def _complain(problems: list[str]) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0
