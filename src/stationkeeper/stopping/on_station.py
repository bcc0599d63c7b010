"""``stationkeeper stop --local``: the stop of the station on which it runs. Needs root, for the latch."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import os
import socket
import sys
import uuid

from stationkeeper.controller import latch
from stationkeeper.controller.config import Loaded, load_or_last_good
from stationkeeper.controller.merge import ConfigError
from stationkeeper.controller.paths import Paths
from stationkeeper.modbus.stop_evidence import SiteState
from stationkeeper.modbus.stop_types import StopOptions
from stationkeeper.station import status
from stationkeeper.stopping.fleet import as_data
from stationkeeper.stopping.local import own_batteries, stop_here
from stationkeeper.stopping.report import NOTICE


def run(arguments: argparse.Namespace, options: StopOptions) -> int:
    """Latch, stop, print; 0 only when the latch stands and every battery is `VERIFIED_ZERO`."""
    paths = Paths(arguments.config_dir, arguments.state_dir, arguments.runtime_dir)
    held, problem = _latch(arguments, paths, dry_run=options.dry_run)
    devices = []
    try:
        loaded = load_or_last_good(paths.files)
    except ConfigError as error:
        # The latch stands all the same: it needs no configuration.
        problem = problem or f"the controller's configuration names no device: {'; '.join(error.problems)}"
    else:
        own = own_batteries(loaded, arguments.station or socket.gethostname())
        results = asyncio.run(stop_here(own, options, lambda: status.fetch(_metrics_url(loaded))))
        devices = [as_data(result) for result in results]
    if arguments.json:
        print(json.dumps({"latched": held, "devices": devices, "error": problem}))
    else:
        print(NOTICE)
        print(f"latch: {'stands' if held else 'NOT set'}")
        for device in devices:
            print(f"{device['name']}: {device['state']}: {device['message']}")
    if problem:
        print(f"stationkeeper stop: {problem}", file=sys.stderr)
    if options.dry_run:
        return 0
    stopped = bool(devices) and all(device["state"] == SiteState.VERIFIED_ZERO for device in devices)
    return 0 if held and stopped else 1


def _latch(arguments: argparse.Namespace, paths: Paths, *, dry_run: bool) -> tuple[bool, str]:
    directory, fallback = paths.latches
    if dry_run:
        return latch.read_latch(directory, fallback).latched, ""
    owner = arguments.owner or os.environ.get("SUDO_USER") or getpass.getuser()
    try:
        done = latch.set_latch(
            reason=arguments.reason,
            who=owner,
            id=arguments.run_id or str(uuid.uuid4()),
            directory=directory,
            fallback=fallback,
        )
    except latch.LatchError as error:
        return False, str(error)
    return done.after.latched, "; ".join(done.warnings)


def _metrics_url(loaded: Loaded) -> str:
    metrics = loaded.config.metrics
    host = "127.0.0.1" if metrics.address in ("0.0.0.0", "::") else metrics.address  # noqa: S104 (compared)
    return f"http://{host}:{metrics.port}/metrics"
