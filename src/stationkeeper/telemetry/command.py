"""``stationkeeper gaps``: missing telemetry, and the comparison of rows with what the devices served."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

from stationkeeper.database.settings_file import SettingsFileError, add_options, read_settings
from stationkeeper.telemetry import gaps, picture, picture_model
from stationkeeper.telemetry.check import Question, check
from stationkeeper.telemetry.coverage import refresh
from stationkeeper.telemetry.presentation import describe
from stationkeeper.telemetry.reconcile import (
    DeviceResult,
    fetch_rows,
    find_devices,
    load_profiles,
    reconcile,
)
from stationkeeper.telemetry.served import ServedLog, parse_unit_map, read_log
from stationkeeper.telemetry.source import TelemetryError, connected, parse_time, reading
from stationkeeper.telemetry.validation import KINDS

# Rows and answers around the window, so that a pair that straddles an edge is found.
_MARGIN = timedelta(minutes=1)


def run(arguments: list[str]) -> int:
    """Return 0 when nothing is missing, 1 when something is, 2 when the question could not be answered."""
    try:
        if arguments[:1] == ["reconcile"]:
            return _reconcile(_reconcile_parser().parse_args(arguments[1:]))
        if arguments[:1] == ["refresh"]:
            return _refresh(_refresh_parser().parse_args(arguments[1:]))
        return _gaps(_gaps_parser().parse_args(arguments))
    except (TelemetryError, SettingsFileError) as error:
        print(f"stationkeeper gaps: {error}", file=sys.stderr)
        return 2


def _common(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument(
        "--from", dest="start", required=required, help="RFC 3339 with offset: 2026-01-31T12:00:00Z"
    )
    parser.add_argument(
        "--to", dest="end", required=required, help="RFC 3339 with offset; not part of the window"
    )
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _gaps_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stationkeeper gaps",
        description="Find missing telemetry of all registered devices. "
        "`stationkeeper gaps reconcile` compares rows with what the devices served, "
        "`stationkeeper gaps refresh` brings the hourly coverage up to date.",
    )
    _common(parser, required=False)
    parser.add_argument("--site", action="append", help="only this site (may be given several times)")
    parser.add_argument(
        "--k", type=float, default=gaps.DEFAULT_K, help="cadences between rows that are a gap (1.5)"
    )
    parser.add_argument(
        "--settle-s",
        type=float,
        default=gaps.DEFAULT_SETTLE_S,
        help="seconds that rows may take to arrive (60)",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="draw the coverage as a page of its own")
    parser.add_argument(
        "--incremental",
        action="store_true",
        help="instead of a window: what is new since the last --record, and the gaps that still wait",
    )
    parser.add_argument(
        "--by-hours",
        action="store_true",
        help="answer from the hourly coverage, and from rows where it leaves questions",
    )
    parser.add_argument("--record", action="store_true", help="write what was found into the gap ledger")
    parser.add_argument(
        "--kinds",
        type=lambda text: text.split(","),
        default=[],
        help=f"also look for rows that cannot be trusted: {','.join(KINDS)}",
    )
    parser.add_argument(
        "--quarantine", action="store_true", help="copy the impossible rows of --kinds to the quarantine"
    )
    return parser


def _refresh_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stationkeeper gaps refresh",
        description="Bring the hourly coverage up to date: the hours that are new or incomplete.",
    )
    _common(parser)
    parser.add_argument("--site", action="append", help="only this site (may be given several times)")
    return parser


def _reconcile_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stationkeeper gaps reconcile",
        description="Compare the rows in the database with the answers in a device simulator's log.",
    )
    _common(parser)
    parser.add_argument(
        "--served-log", type=Path, action="append", required=True, help="JSON lines; several when rotated"
    )
    parser.add_argument("--unit-map", required=True, help="1=WLCE-BESS-01,2=WLCE-METER-01")
    parser.add_argument("--client", action="append", help="only answers to this address (or address:port)")
    parser.add_argument(
        "--kill", action="append", default=[], help="when the controller was killed (RFC 3339; several times)"
    )
    return parser


def _gaps(parsed: argparse.Namespace) -> int:
    if parsed.incremental == (parsed.start is not None) or (parsed.start is None) != (parsed.end is None):
        raise TelemetryError("give --from and --to, or --incremental")
    if parsed.quarantine and not parsed.kinds:
        raise TelemetryError("--quarantine copies what --kinds finds; add --kinds impossible,future")
    question = Question(
        start=parse_time(parsed.start) if parsed.start else None,
        end=parse_time(parsed.end) if parsed.end else None,
        sites=parsed.site,
        k=parsed.k,
        settle_s=parsed.settle_s,
        schema=parsed.schema,
        by_hours=parsed.by_hours,
        kinds=parsed.kinds,
        record=parsed.record,
        quarantine=parsed.quarantine,
    )
    with (connected if question.writes else reading)(read_settings(parsed.database_file)) as connection:
        answer = check(connection, question)
        if parsed.html:
            recovered = picture_model.fetch_recovered(connection, answer.report, schema=parsed.schema)
            _draw(parsed.html, picture_model.build(answer.report, datetime.now(UTC), recovered))
    if parsed.json:
        print(json.dumps(answer.as_dict(), indent=2))
    else:
        print("\n".join([describe(answer.report), *answer.lines()]))
    return 0 if answer.ok else 1


def _refresh(parsed: argparse.Namespace) -> int:
    start, end = parse_time(parsed.start), parse_time(parsed.end)
    with connected(read_settings(parsed.database_file)) as connection:
        done = refresh(connection, start, end, sites=parsed.site, schema=parsed.schema)
    print(json.dumps(asdict(done)) if parsed.json else f"{done.hours} hours new or changed")
    return 0


def _draw(path: Path, model: picture_model.Model) -> None:
    try:
        path.write_text(picture.draw(model), encoding="utf-8")
    except OSError as error:
        raise TelemetryError(f"the picture cannot be written to {path}: {error.strerror}") from None


def _reconcile(parsed: argparse.Namespace) -> int:
    start, end = parse_time(parsed.start), parse_time(parsed.end)
    if start >= end:
        raise TelemetryError("the window is empty: it ends before it begins")
    units = parse_unit_map(parsed.unit_map)
    kills = [parse_time(text) for text in parsed.kill]
    with reading(read_settings(parsed.database_file)) as connection:
        devices = find_devices(connection, list(units.values()), schema=parsed.schema)
        profiles = load_profiles(devices)
        rows = fetch_rows(connection, devices, profiles, start - _MARGIN, end + _MARGIN, schema=parsed.schema)
    log = read_log(parsed.served_log, units, profiles, clients=parsed.client)
    results = reconcile(log.samples, rows, list(devices), start, end, kills=kills)
    if parsed.json:
        print(json.dumps(_as_dict(log, results), indent=2))
    else:
        print(_table(log, results))
    return 0 if all(result.ok for result in results) else 1


def _as_dict(log: ServedLog, results: list[DeviceResult]) -> dict[str, object]:
    return {
        "ok": all(result.ok for result in results),
        "other_lines": log.other,
        "unreadable_lines": log.unreadable,
        "devices": [result.as_dict() for result in results],
    }


def _table(log: ServedLog, results: list[DeviceResult]) -> str:
    names = ("served", "stored", "equal", "missing", "invented", "differing", "in_flight")
    lines = [f"{'device':<24}" + "".join(f"{name:>10}" for name in names)]
    for result in results:
        data = result.as_dict()
        lines.append(f"{result.name:<24}" + "".join(f"{data[name]:>10}" for name in names))
    for result in results:
        data = result.as_dict()
        for name in ("missing", "invented", "differing", "in_flight"):
            lines += [f"    {result.name} {name}: {json.dumps(case)}" for case in data[f"{name}_evidence"]]
    if log.unreadable:
        lines.append(f"{log.unreadable} lines of the log could not be read")
    every = all(result.ok for result in results)
    lines.append(
        "Every answer is a row, every row an answer" if every else "The rows are NOT what was served"
    )
    return "\n".join(lines)
