"""``stationkeeper job``: scheduled work, one run of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from stationkeeper.hot_tier.connection import connected
from stationkeeper.jobs import catalogue, config, status
from stationkeeper.jobs.interface import JobError
from stationkeeper.jobs.run import run_ended, run_job
from stationkeeper.jobs.runs import JobBusyError
from stationkeeper.telemetry.source import TelemetryError, reading

DAY_S = 86400.0


def run(arguments: list[str]) -> int:
    """Return 0 when the job completed, 1 when it failed, 2 for a wrong question, 3 when it runs already.

    ``status`` returns 0 with every answer, ``connect`` 2 when one of those that the jobs need refuses them.
    """
    parsed = _parser().parse_args(arguments)
    try:
        return _act(parsed)
    except JobBusyError as error:
        print(f"stationkeeper job: {error}", file=sys.stderr)
        return 3
    except (JobError, TelemetryError) as error:
        print(f"stationkeeper job: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"stationkeeper job: the figures cannot be written: {error}", file=sys.stderr)
        return 1


def _act(parsed: argparse.Namespace) -> int:
    if parsed.action == "list":
        width = max(map(len, catalogue.JOBS))
        print("\n".join(f"{name:{width}}  {text}" for name, text in catalogue.JOBS.items()))
        return 0
    if parsed.action == "status":
        return _status(config.read(parsed.config), as_json=parsed.json)
    if parsed.action == "connect":
        return _connect(config.read(parsed.config))
    work = catalogue.find(parsed.name)
    settings = config.read(parsed.config).settings(parsed.name)
    if parsed.action == "ended":
        print(run_ended(settings, parsed.name, _service_result()))
        return 0
    done = run_job(settings, parsed.name, work, unit=_unit(parsed.name))
    if not done.completed:
        print(f"job {parsed.name} failed after {done.duration_s:.1f} s: {done.error}", file=sys.stderr)
        return 1
    print(f"job {parsed.name} completed in {done.duration_s:.1f} s, {done.records} records, run {done.id}")
    return 0


def _connect(given: config.Configuration) -> int:
    settings = given.settings()
    with reading(settings.database):
        print("the database lets the jobs in")
    if settings.redis is not None:
        with connected(settings.redis):
            print("Redis lets the jobs in")
    return 0


def _status(given: config.Configuration, *, as_json: bool) -> int:
    settings = given.settings()
    with reading(settings.database) as connection:
        found = status.ask(
            connection, given.schedules, window_s=DAY_S, target=status.DEFAULT_TARGET, schema=settings.schema
        )
    if as_json:
        print(json.dumps([one.as_dict() for one in found]))
    else:
        print("\n".join(status.describe(found)))
    return 0


def _unit(name: str) -> str | None:
    """Name the unit when systemd started this process as the main one of a service."""
    return (
        f"stationkeeper-job-{name}.service"
        if os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())
        else None
    )


def _service_result() -> str:
    """What systemd tells a unit's ExecStopPost about its end: like ``timeout, killed by TERM``."""
    result, code, status = (
        os.environ.get(name, "") for name in ("SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS")
    )
    return f"{result or 'unknown'}, {code} {status}".strip(", ")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stationkeeper job", description="Scheduled work. Each run is a row in the job table."
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="name the jobs")
    for action, text in (
        ("run", "run a job now"),
        ("ended", "settle the row of a run whose process was ended from outside; systemd calls it"),
    ):
        one = actions.add_parser(action, help=text)
        one.add_argument("name", help="name of the job")
        one.add_argument("--config", type=Path, required=True, help="jobs.json, 0640")
    tried = actions.add_parser("connect", help="log in wherever the jobs do, and do nothing")
    tried.add_argument("--config", type=Path, required=True, help="jobs.json, 0640")
    asked = actions.add_parser("status", help="tell how the declared jobs did in the last day")
    asked.add_argument("--config", type=Path, required=True, help="jobs.json, 0640")
    asked.add_argument("--json", action="store_true", help="print it as JSON")
    return parser
