"""``stationkeeper backfill``: recover missing rows, and write, verify or read archives."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path

from stationkeeper.database.settings_file import SettingsFileError, add_options, read_settings
from stationkeeper.telemetry.backfill.engine import Options
from stationkeeper.telemetry.backfill.export import export, read_back
from stationkeeper.telemetry.backfill.manifest import FORMATS
from stationkeeper.telemetry.backfill.pacing import Throttle
from stationkeeper.telemetry.backfill.plan import describe
from stationkeeper.telemetry.backfill.progress import Lines
from stationkeeper.telemetry.backfill.run import KINDS, Result, Scope, SourceSpec, foresee, recover_all
from stationkeeper.telemetry.source import TelemetryError, connected, parse_time, reading


def run(arguments: list[str]) -> int:
    """Return 0 when all is done, 1 when gaps are left open, 2 when it could not be done."""
    try:
        if arguments[:1] == ["export"]:
            return _export(_export_parser().parse_args(arguments[1:]))
        if arguments[:1] == ["verify"]:
            return _verify(_verify_parser().parse_args(arguments[1:]))
        return _recover(_parser().parse_args(arguments))
    except (TelemetryError, SettingsFileError) as error:
        print(f"stationkeeper backfill: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stationkeeper backfill",
        description="Recover missing rows from other places, proven by count and checksum. "
        "`stationkeeper backfill export` writes archives, `stationkeeper backfill verify` reads one back.",
    )
    add_options(parser)
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="NAME=KIND:WHERE",
        help="several are asked in this order: second=postgresql:SETTINGS_FILE, cold=archive:DIRECTORY "
        "or lake=bigquery:PROJECT.DATASET",
    )
    parser.add_argument("--site", action="append", help="only this site (may be given several times)")
    parser.add_argument("--from", dest="start", help="first record what is missing from here on (RFC 3339)")
    parser.add_argument("--to", dest="end", help="end of that window; not part of it (RFC 3339)")
    parser.add_argument("--check", action="store_true", help="list spans and row counts; write nothing")
    parser.add_argument(
        "--give-up", metavar="REASON", help="close what no source has as unrecoverable, with this reason"
    )
    parser.add_argument("--rows-per-s", type=float, help="go no faster than this")
    parser.add_argument("--max-lag-mib", type=float, help="stop when a replica is further behind")
    parser.add_argument("--workers", type=int, default=2, help="entries worked on at the same time (2)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _export_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stationkeeper backfill export", description="Write the rows of a window to an archive."
    )
    add_options(parser)
    parser.add_argument("--from", dest="start", required=True, help="RFC 3339 with offset")
    parser.add_argument("--to", dest="end", required=True, help="RFC 3339 with offset; not part of it")
    parser.add_argument("--directory", type=Path, required=True, help="of the archive; made when missing")
    parser.add_argument("--format", choices=FORMATS, default="parquet")
    parser.add_argument("--site", action="append", help="only this site (may be given several times)")
    parser.add_argument("--check", action="store_true", help="count the rows; write nothing")
    return parser


def _verify_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stationkeeper backfill verify",
        description="Read an archive back into a temporary table, each hour against its manifest.",
    )
    add_options(parser)
    parser.add_argument("--directory", type=Path, required=True)
    return parser


def _recover(parsed: argparse.Namespace) -> int:
    settings = read_settings(parsed.database_file)
    sources = [_source(text) for text in parsed.source]
    scope = Scope(sites=parsed.site, window=_window(parsed))
    if parsed.check:
        planned = foresee(settings, sources, scope, schema=parsed.schema)
        if parsed.json:
            print(json.dumps([one.as_dict() for one in planned], indent=2))
        else:
            print("\n".join(describe(planned)))
        return 0
    limit = parsed.max_lag_mib
    options = Options(
        schema=parsed.schema,
        sites=parsed.site,
        max_lag_bytes=None if limit is None else int(limit * 2**20),
        give_up=parsed.give_up,
    )
    progress = Lines(sys.stderr)
    try:
        result = recover_all(
            settings,
            sources,
            scope,
            options,
            workers=parsed.workers,
            throttle=Throttle(parsed.rows_per_s),
            progress=progress,
        )
    finally:
        progress.end()
    print(json.dumps(result.as_dict(), indent=2) if parsed.json else "\n".join(summary(result)))
    outcome = result.outcome
    return 1 if outcome.entries.get("open") or outcome.failed_sources or outcome.stopped else 0


def summary(result: Result) -> list[str]:
    """Return what a recovery came to as lines for a terminal."""
    outcome = result.outcome
    lines = [
        f"{outcome.rows_new} rows recovered in {outcome.batches} batches ({outcome.rows_in} offered), "
        f"{outcome.conflicts} conflicts, {outcome.buckets} buckets of the rollup changed"
    ]
    if outcome.entries:
        lines.append("gaps: " + ", ".join(f"{count} {state}" for state, count in outcome.entries.items()))
    lines += [f"source left out: {text}" for text in outcome.failed_sources.values()]
    if outcome.stopped:
        lines.append(f"stopped: {outcome.stopped}")
    if result.totals:
        lines.append(", ".join(f"{name} {count}" for name, count in result.totals.items()))
    return lines


def _source(text: str) -> SourceSpec:
    name, _, rest = text.partition("=")
    kind, _, where = rest.partition(":")
    if not name or kind not in KINDS or not where:
        raise TelemetryError(f"source {text!r}: write NAME=KIND:WHERE, KIND one of {', '.join(KINDS)}")
    return SourceSpec(name, kind, read_settings(Path(where)) if kind == "postgresql" else where)


def _window(parsed: argparse.Namespace) -> tuple[datetime, datetime] | None:
    if (parsed.start is None) != (parsed.end is None):
        raise TelemetryError("a window has both --from and --to")
    return None if parsed.start is None else (parse_time(parsed.start), parse_time(parsed.end))


def _export(parsed: argparse.Namespace) -> int:
    with reading(read_settings(parsed.database_file)) as connection:
        done = export(
            connection,
            parsed.directory,
            parse_time(parsed.start),
            parse_time(parsed.end),
            sites=parsed.site,
            format=parsed.format,
            schema_name=parsed.schema,
            dry_run=parsed.check,
        )
    text = "would be written" if parsed.check else "written" if done.changed else "there already"
    print(f"{done.rows} rows of {done.devices} devices in {done.files} files {text}: {done.directory}")
    return 0


def _verify(parsed: argparse.Namespace) -> int:
    with connected(read_settings(parsed.database_file)) as connection:
        rows = read_back(connection, parsed.directory, schema_name=parsed.schema)
    print(f"{rows} rows came back as they were archived: {parsed.directory}")
    return 0
