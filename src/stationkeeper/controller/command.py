"""``stationkeeper controller``: run it, check its configuration, handle the latch, tell its state."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import os
import signal
import sys
from pathlib import Path

from stationkeeper.controller import latch
from stationkeeper.controller.config import Loaded, digest, load, load_database
from stationkeeper.controller.merge import ConfigError
from stationkeeper.controller.orders import OrderError, parse_time
from stationkeeper.controller.paths import Paths
from stationkeeper.controller.service import Service
from stationkeeper.controller.status import status
from stationkeeper.controller.store import Store, StoreError, as_owner_of
from stationkeeper.database.connection import connect

CONFIG_DIR = Path("/etc/bess_controller")
STATE_DIR = Path("/var/lib/bess_controller")


def _check_config(arguments: argparse.Namespace) -> int:
    problems: list[str] = []
    if arguments.config is None and arguments.database is None:
        print("check-config: give --config or --database", file=sys.stderr)
        return 2
    if arguments.config is not None:
        try:
            loaded = load(arguments.config, arguments.override, arguments.profiles)
            print(_told(loaded, as_json=arguments.json))
        except ConfigError as error:
            problems += error.problems
    if arguments.database is not None:
        try:
            settings = load_database(arguments.database)
            print(f"valid: database {settings.name} at {', '.join(settings.hosts)}")
        except ConfigError as error:
            problems += error.problems
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _connect(arguments: argparse.Namespace) -> int:
    import psycopg2

    try:
        settings = load_database(arguments.database)
        connect(settings.model_dump(), application_name="bess_controller connect").close()
    except ConfigError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return 1
    except psycopg2.OperationalError as error:
        print(str(error).strip(), file=sys.stderr)
        return 1
    print(f"{settings.user} is let into {settings.name} at {', '.join(settings.hosts)}")
    return 0


def _told(loaded: Loaded, *, as_json: bool) -> str:
    config = loaded.config
    if not as_json:
        return f"valid: site {config.site}, hash {loaded.hash}"
    # What a running controller cannot take up when it is reloaded.
    at_start = {
        "site": config.site,
        "metrics": config.metrics.model_dump(),
        "buffer": config.data_platform.buffer.model_dump(),
    }
    return json.dumps(
        {
            "hash": loaded.hash,
            "poll_interval_s": config.controller.poll_interval_s,
            "start_hash": digest(at_start),
        }
    )


def _latch(arguments: argparse.Namespace) -> int:
    places = {"directory": arguments.state_dir / "latch", "fallback": arguments.runtime_dir / "latch"}
    who = os.environ.get("SUDO_USER") or getpass.getuser()
    try:
        if arguments.action == "set":
            done = latch.set_latch(reason=arguments.reason, who=who, id=arguments.id, **places)
            result = {"changed": done.changed, "warnings": list(done.warnings)} | done.after.as_dict()
        elif arguments.action == "clear":
            done = latch.clear_latch(**places)
            result = {"changed": done.changed} | done.after.as_dict()
        else:
            result = latch.read_latch(**places).as_dict()
    except latch.LatchError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(result, indent=2))
    return 0


def _paths(arguments: argparse.Namespace) -> Paths:
    return Paths(arguments.config_dir, arguments.state_dir, arguments.runtime_dir)


def _run(arguments: argparse.Namespace) -> int:
    try:
        service = Service(_paths(arguments))
    except ConfigError as error:
        for problem in error.problems:
            print(f"stationkeeper controller: {problem}", file=sys.stderr)
        return 1

    async def control() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, service.stopping.set)
        loop.add_signal_handler(signal.SIGHUP, service.reloading.set)
        await service.run()

    asyncio.run(control())
    return 0


def _status(arguments: argparse.Namespace) -> int:
    result = status(_paths(arguments))
    print(json.dumps(result, indent=2))
    return 0 if result["running"] else 3


def _requeue(arguments: argparse.Namespace) -> int:
    path = _paths(arguments).buffer
    if not path.exists():
        print(f"{path}: there is no store", file=sys.stderr)
        return 1
    try:
        with as_owner_of(path):
            store = Store(path, create=False)
            if arguments.since is None:
                print(f"{store.requeue()} rejected rows are in the queue again")
            else:
                again = store.send_again(int(parse_time(arguments.since).timestamp() * 1e6))
                print(f"{again} uploaded rows are in the queue again")
            store.close()
    except (OrderError, StoreError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stationkeeper controller", description=__doc__)
    actions = parser.add_subparsers(required=True)
    places = argparse.ArgumentParser(add_help=False)
    places.add_argument("--config-dir", type=Path, default=CONFIG_DIR)
    places.add_argument("--state-dir", type=Path, default=STATE_DIR)
    places.add_argument("--runtime-dir", type=Path, default=latch.FALLBACK_DIRECTORY.parent)

    service = actions.add_parser("run", help="control the station until SIGTERM", parents=[places])
    service.set_defaults(run=_run)

    tell = actions.add_parser("status", help="tell the state as JSON (exit 3: not running)", parents=[places])
    tell.set_defaults(run=_status)

    again = actions.add_parser("requeue", help="send rejected or uploaded rows once more", parents=[places])
    again.add_argument(
        "--since", metavar="TIME", help="uploaded rows from this time on, for a database that has lost them"
    )
    again.set_defaults(run=_requeue)

    check = actions.add_parser(
        "check-config", help="validate files before they are put in place (exit 0 or 1)"
    )
    check.add_argument("--config", type=Path)
    check.add_argument("--override", type=Path)
    check.add_argument("--database", type=Path)
    check.add_argument("--json", action="store_true", help="tell a valid configuration as JSON")
    check.add_argument("--profiles", type=Path, default=CONFIG_DIR / "profiles")
    check.set_defaults(run=_check_config)

    tried = actions.add_parser("connect", help="log into the database, and do nothing (exit 0 or 1)")
    tried.add_argument("--database", type=Path, default=CONFIG_DIR / "database.yaml")
    tried.set_defaults(run=_connect)

    handle = actions.add_parser("latch", help="the emergency-stop latch")
    verbs = handle.add_subparsers(dest="action", required=True)
    engage = verbs.add_parser("set", help="stop: hold 0 kW until it is cleared", parents=[places])
    engage.add_argument("--reason", required=True)
    engage.add_argument("--id", default="by-hand")
    verbs.add_parser("clear", help="release", parents=[places])
    verbs.add_parser("show", help="tell whether the station is latched", parents=[places])
    handle.set_defaults(run=_latch)
    return parser


def run(arguments: list[str]) -> int:
    """Run one action and return its exit code."""
    parsed = _parser().parse_args(arguments)
    result: int = parsed.run(parsed)
    return result
