"""``stationkeeper stop``: bring batteries to zero and latch their stations, without Ansible.

Works from the stop bundle alone: no inventory, no database. Not a certified safety function.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stationkeeper.modbus.stop_types import StopOptions
from stationkeeper.runbooks.state import state_directory


def run(arguments: list[str]) -> int:
    """Run the stop; 0 only when everything is proven stopped, 1 when not, 2 for a usage error."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    modes = [bool(parsed.target), parsed.local, parsed.deliver_pending]
    if sum(modes) != 1:
        parser.error("give one of --target, --deliver-pending and --local")
    if not parsed.check and not parsed.deliver_pending and not parsed.reason:
        parser.error("a stop needs a --reason (--check does not)")
    for name in ("window_s", "hold_s", "keep_trying_s"):
        if not 0 <= getattr(parsed, name) < 86400:
            parser.error(f"--{name.replace('_', '-')} must be 0 or more seconds, less than a day")
    options = StopOptions(window_s=parsed.window_s, hold_s=parsed.hold_s, dry_run=parsed.check)
    if parsed.local:
        # A station carries the package without the control node's libraries.
        from stationkeeper.stopping import on_station

        return on_station.run(parsed, options)
    from stationkeeper.stopping import control

    return control.run(parsed, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stationkeeper stop", description=__doc__)
    parser.add_argument("--target", help="stations, groups, patterns or all, separated by commas")
    parser.add_argument("--reason", default="", help="why; kept in the latch, the report and the audit")
    parser.add_argument(
        "--bundle", type=Path, help="stop bundle (default: the only one of this control node)"
    )
    parser.add_argument("--check", action="store_true", help="show the plan; write nothing")
    parser.add_argument(
        "--deliver-pending", action="store_true", help="stop the stations that a stop order still waits for"
    )
    parser.add_argument("--window-s", type=float, default=15, help="seconds to reach zero (default 15)")
    parser.add_argument("--hold-s", type=float, default=5, help="seconds to stay there (default 5)")
    parser.add_argument(
        "--keep-trying-s",
        type=float,
        default=120,
        help="seconds for which stations that are not stopped are tried again (default 120)",
    )
    parser.add_argument("--state", type=Path, default=state_directory(), help="the state directory")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of text")
    here = parser.add_argument_group("on a station")
    here.add_argument("--local", action="store_true", help="stop the station on which this runs")
    here.add_argument("--station", default="", help="name of the station in the results")
    here.add_argument("--run-id", default="", help="identifier of the run that asks")
    here.add_argument("--owner", default="", help="who asks")
    here.add_argument("--config-dir", type=Path, default=Path("/etc/bess_controller"))
    here.add_argument("--state-dir", type=Path, default=Path("/var/lib/bess_controller"))
    here.add_argument("--runtime-dir", type=Path, default=Path("/run/bess_controller"))
    return parser
