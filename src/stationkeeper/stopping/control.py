"""``stationkeeper stop`` on the control node: one round for all, more for those that are not stopped."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stationkeeper.modbus.stop_types import StopOptions
from stationkeeper.runbooks.pending import LedgerError
from stationkeeper.stopping import orders
from stationkeeper.stopping.bundle import Bundle, BundleError, only_bundle, read_bundle
from stationkeeper.stopping.fleet import Site, all_stopped, sites_of, stop_fleet, utc_now
from stationkeeper.stopping.journal import Journal
from stationkeeper.stopping.report import NOTICE, as_text, name_of, write_report
from stationkeeper.stopping.station_latch import Order

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0


def run(arguments: argparse.Namespace, options: StopOptions) -> int:
    """Stop, report, keep trying; 0 only when every station is proven stopped (with --check: when planned)."""
    try:
        bundle = read_bundle(arguments.bundle or only_bundle(arguments.state / "stop_bundle"))
        names, reason = _choose(arguments, bundle)
    except (BundleError, LedgerError) as error:
        print(f"stationkeeper stop: {error}", file=sys.stderr)
        return 2
    if not names:
        print("No stop order waits for a station of this bundle.")
        return 0
    return FleetStop(arguments.state, bundle, reason, options, quiet=arguments.json).run(
        sites_of(bundle, names), arguments.keep_trying_s
    )


def _choose(arguments: argparse.Namespace, bundle: Bundle) -> tuple[list[str], str]:
    if not arguments.deliver_pending:
        return bundle.select(arguments.target), arguments.reason
    due = orders.ledger(arguments.state).due(datetime.now(UTC))
    for name in sorted(set(due) - set(bundle.stations)):
        print(f"stationkeeper stop: {name} is not in the bundle of {bundle.system}", file=sys.stderr)
    names = [name for name in bundle.stations if name in due]
    reasons = dict.fromkeys(due[name].reason for name in names)
    return names, arguments.reason or "; ".join(reasons)


class FleetStop:
    """One stop of several stations, with its report, its pending orders and its audit records."""

    def __init__(
        self, state: Path, bundle: Bundle, reason: str, options: StopOptions, *, quiet: bool
    ) -> None:
        self._state = state
        self._bundle = bundle
        self._options = options
        self._quiet = quiet
        self._warnings: list[str] = []
        self._journal = Journal(state, self._warn)
        self._order = Order(reason, self._journal.owner, str(uuid.uuid4()))
        self._started_at = utc_now()
        self._outcomes: dict[str, dict[str, Any]] = {}
        self._waiting: list[str] = []
        self._path: Path | None = None

    def run(self, sites: Sequence[Site], keep_trying_s: float) -> int:
        """Run the rounds and return the exit code."""
        if not self._quiet:
            print(NOTICE, flush=True)
        if not self._options.dry_run:
            self._journal.start(self._order, [site.name for site in sites])
        deadline = time.monotonic() + keep_trying_s
        self._round(sites)
        code = self._code()
        pause_s = _FIRST_PAUSE_S
        while code and not self._options.dry_run and time.monotonic() + pause_s < deadline:
            left = [site for site in sites if not self._outcomes[site.name]["stopped"]]
            self._say(f"Trying {len(left)} stations again in {pause_s:g} s; interrupting loses nothing.")
            try:
                time.sleep(pause_s)
                self._round(left)
            except KeyboardInterrupt:
                break
            code = self._code()
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        if not self._options.dry_run:
            self._journal.end(code, list(self._outcomes.values()))
        if self._quiet:
            print(json.dumps(self._report()))
        return code

    def _round(self, sites: Sequence[Site]) -> None:
        for outcome in asyncio.run(stop_fleet(sites, self._order, self._options)):
            self._outcomes[outcome["station"]] = outcome
        if not self._options.dry_run:
            self._keep_orders()
            self._write()
        if not self._quiet:
            print(as_text(self._report()), end="", flush=True)
            if self._path:
                print(f"\nReport: {self._path}", flush=True)

    def _keep_orders(self) -> None:
        latches = [(name, outcome["evidence"]["latch"]) for name, outcome in self._outcomes.items()]
        try:
            self._waiting = orders.update(
                self._state,
                latches,
                reason=self._order.reason,
                run_id=self._order.run_id,
                now=datetime.now(UTC),
            )
        except (LedgerError, OSError) as error:
            self._waiting = [name for name, latch in latches if orders.needs_order(latch)]
            self._warn(f"the stop orders of {', '.join(self._waiting) or 'none'} are NOT kept: {error}")

    def _write(self) -> None:
        name = name_of(self._started_at, self._order.run_id)
        try:
            self._path, warning = write_report(self._state / "stops", name, self._report())
        except OSError as error:
            self._path, warning = None, f"no place took the report: {error}"
        if warning:
            self._warn(warning)

    def _report(self) -> dict[str, Any]:
        return {
            "run_id": self._order.run_id,
            "system": self._bundle.system,
            "bundle_written_at": self._bundle.written_at,
            "check": self._options.dry_run,
            "reason": self._order.reason,
            "owner": self._order.owner,
            "started_at": self._started_at,
            "reported_at": utc_now(),
            "all_stopped": not self._options.dry_run and all_stopped(list(self._outcomes.values())),
            "stations": list(self._outcomes.values()),
            "pending": self._waiting,
            "warnings": self._warnings,
        }

    def _code(self) -> int:
        if self._options.dry_run:
            return 0
        return 0 if all_stopped(list(self._outcomes.values())) else 1

    def _warn(self, message: str) -> None:
        if message not in self._warnings:
            self._warnings.append(message)
            print(f"stationkeeper stop: {message}", file=sys.stderr)

    def _say(self, message: str) -> None:
        if not self._quiet:
            print(message, flush=True)
