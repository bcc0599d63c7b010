"""``stationkeeper cache``: the hot tier."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, fields
from pathlib import Path

from stationkeeper.database.settings_file import SettingsFileError, read_settings
from stationkeeper.hot_tier.connection import settings_of
from stationkeeper.hot_tier.judge import Limits, judge, lines
from stationkeeper.hot_tier.look import Question, look
from stationkeeper.hot_tier.refresh import Request, refresh
from stationkeeper.telemetry.source import TelemetryError, reading


def run(arguments: list[str]) -> int:
    """Return 0 when all is well, 1 when a check finds something, 2 when it could not be done."""
    parsed = _parser().parse_args(arguments)
    try:
        return _refresh(parsed) if parsed.command == "refresh" else _check(parsed)
    except (TelemetryError, SettingsFileError) as error:
        print(f"stationkeeper cache: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stationkeeper cache", description="The last 24 hours of telemetry in Redis."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("refresh", help="make the cache agree with the database")
    one.add_argument("--force", action="store_true", help="make everything anew; readers notice nothing")
    one.add_argument(
        "--device", action="append", default=[], help="only these devices; a name or a glob (several times)"
    )
    one.add_argument("--check", action="store_true", help="say what would be written, and write nothing")
    other = commands.add_parser(
        "check", help="memory, hit rate, age, and whether it says what the database says"
    )
    other.add_argument("--sample-s", type=float, default=2.0, help="seconds to measure the hit rate (2)")
    for limit in fields(Limits):
        other.add_argument(
            f"--{limit.name.replace('_', '-')}", type=type(limit.default), default=limit.default, metavar="N"
        )
    for command in (one, other):
        command.add_argument(
            "--database-file", type=Path, required=True, help="settings as JSON or a libpq string, 0600"
        )
        command.add_argument(
            "--redis-file", type=Path, required=True, help="JSON with host, port, user, password, 0600"
        )
        command.add_argument("--system", default="flux", help="first part of all keys (flux)")
        command.add_argument("--schema", default="flux", help="schema of the telemetry tables (flux)")
        command.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _refresh(parsed: argparse.Namespace) -> int:
    request = Request(parsed.system, parsed.schema, parsed.device, parsed.force)
    cache = settings_of(read_settings(parsed.redis_file))
    with reading(read_settings(parsed.database_file)) as connection:
        outcome = refresh(connection, cache, request, dry_run=parsed.check)
    if parsed.json:
        print(json.dumps(outcome.as_dict(), indent=2))
    else:
        print("\n".join([*outcome.lines(), f"{outcome.points} points of {len(outcome.devices)} devices"]))
    return 0


def _check(parsed: argparse.Namespace) -> int:
    limits = Limits(**{limit.name: getattr(parsed, limit.name) for limit in fields(Limits)})
    question = Question(parsed.system, parsed.schema, parsed.sample_s)
    cache = settings_of(read_settings(parsed.redis_file))
    with reading(read_settings(parsed.database_file)) as connection:
        seen = look(connection, cache, question)
    checks = judge(seen, limits)
    if parsed.json:
        print(json.dumps(seen.as_dict() | {"checks": [asdict(one) for one in checks]}, indent=2))
    else:
        print("\n".join(lines(seen, checks)))
    return 0 if all(one.state == "ok" for one in checks) else 1
