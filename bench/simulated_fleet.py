"""A fleet of simulated stations in one process, each a battery with its meter on a port of its own.

Prints one line of JSON when all listen: the ports by behaviour. Serves until its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

from stationkeeper.simulator.config import SimulatorConfig, Station
from stationkeeper.simulator.faults import Fault
from stationkeeper.simulator.served_log import ServedLog
from stationkeeper.simulator.server import SimulatorServer

_STEP_S = 0.25
POWER_KW = 50.0
FAULTS = {
    "well": None,
    "black_holed": Fault(kind="black_hole"),
    "busy": Fault(kind="busy", unit=1, count=3),
    "slow": Fault(kind="slow_apply", unit=1, seconds=8.0),
}


def behaviours(devices: int) -> list[str]:
    """Return 10 % black-holed, 5 % busy, 5 % slow and the rest well, spread over the fleet."""
    pattern = ["well"] * 20
    pattern[3] = pattern[13] = "black_holed"
    pattern[7], pattern[17] = "busy", "slow"
    return [pattern[number % 20] for number in range(devices)]


def station(number: int) -> Station:
    """Return a battery at full set-point and its meter."""
    battery = {"unit": 1, "name": f"bess-{number}", "profile": "generic_battery", "seed": number}
    battery |= {"watchdog": {"timeout_s": 0}, "ramp_kw_per_s": 100}
    meter = {"unit": 2, "name": f"meter-{number}", "profile": "generic_meter", "meter_of": battery["name"]}
    content = {"listen": {"host": "127.0.0.1", "port": 0}, "log": "log", "devices": [battery, meter]}
    made = Station(SimulatorConfig.model_validate(content))
    made.devices[1].source.write("power_command_kw", POWER_KW)
    made.step(1.0)
    return made


async def serve(devices: int, log: Path) -> None:
    """Serve until standard input ends."""
    served = ServedLog(log)
    stations, ports = [], []
    for number, behaviour in enumerate(behaviours(devices)):
        stations.append(station(number))
        server = SimulatorServer(stations[-1].devices, served)
        ports.append({"number": number, "behaviour": behaviour, "port": await server.start("127.0.0.1", 0)})
        fault = FAULTS[behaviour]
        if fault is not None:
            server.faults.set(fault)
    print(json.dumps(ports), flush=True)
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    done = time.monotonic()
    while not ended.done():
        await asyncio.sleep(_STEP_S)
        # Real time, whatever the machine's load: a slow simulator must not make slow batteries.
        now = time.monotonic()
        for entry in stations:
            entry.step(now - done)
        done = now


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()
    asyncio.run(serve(options.devices, options.log))
