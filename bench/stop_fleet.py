"""How long a fleet stop takes, and what the proof costs: `python bench/stop_fleet.py`.

For each size of fleet, two runs over simulated devices (10 % black-holed, 5 % busy, 5 % slow by 8 s), both on
loopback, with the fleet in a process of its own:

- the floor: a bare asyncio socket fan-out that writes the same registers and waits for the echo only;
- the stop: the same writes with everything that belongs to it, until zero is measured and held.

With `--lab INVENTORY` also what people type instead on the lab's stations, one `ssh … systemctl stop` after
the other, beside the whole stop with its latches. That stops and latches the lab for some seconds, and
puts it back as it was.

Exits 1 when a reachable device was not proven stopped, or its first zero write left later than 1 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stationkeeper.modbus.stop import (
    Endpoint,
    SiteState,
    StopOptions,
    Target,
    allow_files,
    stop_all,
)
from stationkeeper.profiles import load_profile, plan_recipe
from stationkeeper.stopping.bundle import read_bundle
from stationkeeper.stopping.fleet import sites_of, stop_fleet
from stationkeeper.stopping.ssh import command_line
from stationkeeper.stopping.station_latch import Order

FIRST_WRITE_LIMIT_S = 1.0
_BENCH = Path(__file__).resolve().parent
_BARE_TIMEOUT_S = 5.0


@contextmanager
def fleet(devices: int) -> Iterator[list[dict[str, Any]]]:
    """Run a simulated fleet in a process of its own; gives number, behaviour and port of each device."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, str(_BENCH / "simulated_fleet.py"), f"--devices={devices}"]
        process = subprocess.Popen(
            [*command, f"--log={directory}/served.jsonl"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait()
            process.stdout.close()


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def shown(values: Sequence[float]) -> str:
    """Return p50, p99 and maximum in seconds."""
    return "  ".join(
        f"{name} {percentile(values, share):7.3f} s"
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    )


@dataclass(frozen=True)
class Bare:
    """One device of the bare fan-out: seconds until the write left and until its echo, None without one."""

    left_s: float
    echo_s: float


async def bare_fan_out(ports: Sequence[int]) -> list[Bare | None]:
    """Write zero to every port by raw sockets; None for a port that gave no echo."""
    battery = load_profile("generic_battery")
    (write,) = plan_recipe(battery, "zero_power")
    count = len(write.words)
    pdu = struct.pack(f">BHHB{count}H", 16, write.address, count, 2 * count, *write.words)
    frame = struct.pack(">HHHB", 1, 0, len(pdu) + 1, 1) + pdu
    started = time.monotonic()

    async def one(port: int) -> Bare | None:
        try:
            async with asyncio.timeout(_BARE_TIMEOUT_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(frame)
                left_s = time.monotonic() - started
                await reader.readexactly(9)
                return Bare(left_s, time.monotonic() - started)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return None

    return list(await asyncio.gather(*(one(port) for port in ports)))


def targets(entries: Sequence[dict[str, Any]]) -> list[Target]:
    """Return the batteries of a simulated fleet with their meters."""
    battery, meter = load_profile("generic_battery"), load_profile("generic_meter")
    return [
        Target(
            f"site-{entry['number']}",
            f"bess-{entry['number']}",
            Endpoint("127.0.0.1", entry["port"], 1, battery),
            Endpoint("127.0.0.1", entry["port"], 2, meter),
        )
        for entry in entries
    ]


def compare(devices: int, options: StopOptions) -> bool:
    """Print one size of fleet; whether it meets what is promised."""
    print(f"\n{devices} devices")
    with fleet(devices) as entries:
        allow_files(devices)
        echoes = asyncio.run(bare_fan_out([entry["port"] for entry in entries]))
        floor = [
            echo
            for entry, echo in zip(entries, echoes, strict=True)
            if entry["behaviour"] != "black_holed" and echo is not None
        ]
    with fleet(devices) as entries:
        started = time.monotonic()
        results = asyncio.run(stop_all(targets(entries), options))
        wall_s = time.monotonic() - started
    reachable = [
        result for entry, result in zip(entries, results, strict=True) if entry["behaviour"] != "black_holed"
    ]
    plain = [
        result.verified_s
        for entry, result in zip(entries, results, strict=True)
        if entry["behaviour"] == "well" and result.verified_s is not None
    ]
    proven = [result.verified_s for result in reachable if result.verified_s is not None]
    first = [result.first_write_s for result in reachable if result.first_write_s is not None]
    left, echoed = [bare.left_s for bare in floor], [bare.echo_s for bare in floor]
    print(f"  floor: bare fan-out, write left          {shown(left)}")
    print(f"  floor: bare fan-out, echo came           {shown(echoed)}")
    print(f"  stop:  first zero write left             {shown(first)}")
    print(f"  stop:  zero measured and held            {shown(proven)}   wall {wall_s:.1f} s")
    print(f"  stop:  the same, devices without fault   {shown(plain)}")
    interval_s = max(options.interval_s, devices / 1000)
    waits_s = (options.samples - 1) * interval_s + options.hold_s
    print(
        f"  ratio to the floor (max): first write left {max(first) / max(left):.2f}, "
        f"proof to echo {max(proven) / max(echoed):.0f} ({waits_s:g} s of it are samples and holding time)"
    )
    fine = len(proven) == len(reachable) and max(first) <= FIRST_WRITE_LIMIT_S
    unproven = sum(result.state is not SiteState.VERIFIED_ZERO for result in reachable)
    print(f"  reachable devices not proven stopped: {unproven}; first write limit {FIRST_WRITE_LIMIT_S:g} s")
    return fine


def lab(inventory: str, options: StopOptions) -> bool:
    """Print the lab's stations: what people type instead, beside the whole stop."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "lab.json"
        arguments = {
            "path": str(path),
            "system": "lab",
            "stations": "{{ hostvars | edge_stop_bundle(groups['stations']) }}",
        }
        command = ["ansible", "-i", inventory, "localhost", "-m", "stop_bundle", "-a", json.dumps(arguments)]
        command += ["-e", f"ansible_python_interpreter={sys.executable}"]
        subprocess.run(command, cwd=_BENCH.parent, check=True, capture_output=True)
        bundle = read_bundle(path)
    sites = sites_of(bundle, list(bundle.stations))
    print(f"\n{len(sites)} stations of the lab")
    started = time.monotonic()
    outcomes = asyncio.run(stop_fleet(sites, Order("benchmark", "bench", "bench"), options))
    whole_s = time.monotonic() - started
    fine = all(outcome["stopped"] for outcome in outcomes)
    devices = [device for outcome in outcomes for device in outcome["evidence"]["devices"]]
    first = [device["first_write_s"] for device in devices if device["first_write_s"] is not None]
    print(f"  stop:  first zero write left             {shown(first or [math.nan])}")
    print(f"  stop:  latched, zero measured and held   {whole_s:.1f} s for all, proven: {fine}")
    for outcome, site in zip(outcomes, sites, strict=True):
        if outcome["evidence"]["latch"].get("changed"):
            on_station(site.ssh, "/opt/stationkeeper/venv/bin/stationkeeper controller latch clear")
    loop = [on_station(site.ssh, "systemctl stop bess_controller") for site in sites]
    for site in sites:
        on_station(site.ssh, "systemctl start bess_controller")
    print(f"  loop:  ssh ... systemctl stop            {sum(loop):.1f} s for all, and no power was looked at")
    write_ratio, whole_ratio = max(first or [math.nan]) / sum(loop), whole_s / sum(loop)
    print(f"  ratio to the loop: first write {write_ratio:.2f}, whole stop {whole_ratio:.2f}")
    return fine


def on_station(ssh: Any, command: str) -> float:
    """Run a command as root on a station; return the seconds it took."""
    started = time.monotonic()
    subprocess.run(command_line(ssh, f"sudo -n {command}"), check=True, capture_output=True)
    return time.monotonic() - started


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, nargs="*", default=[200, 1000], help="sizes of the fleet")
    parser.add_argument("--lab", metavar="INVENTORY", help="an inventory whose lab is up and converged")
    arguments = parser.parse_args()
    options = StopOptions()
    print(f"window {options.window_s:g} s, hold {options.hold_s:g} s, samples {options.samples}")
    fine = [compare(devices, options) for devices in arguments.devices]
    if arguments.lab:
        fine.append(lab(arguments.lab, options))
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
