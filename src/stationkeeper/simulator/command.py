"""``stationkeeper simulator``: run simulated devices, or show what they measure."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from pathlib import Path

from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.errors import ModbusError
from stationkeeper.profiles import ProfileError, load_profile, read_points
from stationkeeper.simulator.config import ConfigError, SimulatorConfig, Station, load_config
from stationkeeper.simulator.served_log import ServedLog
from stationkeeper.simulator.server import SimulatorServer

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not listened on
# 2025-01-01, in seconds since 1970; a counter from here has room until 2033.
_HEARTBEAT_EPOCH_S = 1_735_689_600
_HEARTBEATS_PER_S = 16


def run(arguments: list[str]) -> int:
    """Run the sub-command; 0 is success, 1 a failure, 2 a usage or configuration error."""
    parser = argparse.ArgumentParser(prog="stationkeeper simulator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("run", "serve until SIGTERM"), ("status", "read each device once")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--config", type=Path, default=Path("/etc/device_simulator/config.yaml"))
    parsed = parser.parse_args(arguments)
    try:
        config = load_config(parsed.config)
        if parsed.command == "status":
            return asyncio.run(_status(config))
        return asyncio.run(_run(config))
    except (ConfigError, ProfileError) as error:
        print(f"stationkeeper simulator: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"stationkeeper simulator: {error}", file=sys.stderr)
        return 1


def first_heartbeat(now_s: float) -> int:
    """Return a counter above all that an earlier run of this simulator can have served.

    Holds while it serves fewer than 16 answers a second on average: a heartbeat must never name two
    answers, even when the simulator is restarted in the middle of a comparison.
    """
    return int((now_s - _HEARTBEAT_EPOCH_S) * _HEARTBEATS_PER_S) % (1 << 32)


async def _run(config: SimulatorConfig) -> int:
    station = Station(config, first_heartbeat(time.time()))
    log = ServedLog(config.log)
    server = SimulatorServer(station.devices, log)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, log.reopen)
    port = await server.start(config.listen.host, config.listen.port)
    print(f"serving units {', '.join(map(str, station.devices))} on {config.listen.host}:{port}", flush=True)
    try:
        await _step_until(station, config.time_step_s, stop)
    finally:
        await server.close()
        log.close()
    return 0


async def _step_until(station: Station, time_step_s: float, stop: asyncio.Event) -> None:
    """Step in real time, always by the same amount, so that the physics is the same in every run."""
    done = time.monotonic()
    while not stop.is_set():
        try:
            async with asyncio.timeout(time_step_s):
                await stop.wait()
        except TimeoutError:
            while time.monotonic() - done >= time_step_s:
                station.step(time_step_s)
                done += time_step_s


async def _status(config: SimulatorConfig) -> int:
    host = _ANY_ADDRESS.get(config.listen.host, config.listen.host)
    client = StrictClient(host, config.listen.port, timeout_s=2, connect_timeout_s=2)
    failed = False
    for device in config.devices:
        profile = load_profile(device.profile, config.profile_path)
        answer: dict[str, object] = {"unit": device.unit, "name": device.name, "profile": profile.name}
        try:
            # Point by point: the whole block would look like a controller's sample in the served log.
            answer["sample"] = await read_points(client, device.unit, profile, profile.telemetry.points)
        except ModbusError as error:
            answer["error"] = error.message
            failed = True
        print(json.dumps(answer))
    await client.close()
    return 1 if failed else 0
