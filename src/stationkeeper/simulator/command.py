"""``stationkeeper simulator``: run simulated devices, show what they measure, give them faults."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import signal
import sys
import time
from pathlib import Path

from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.errors import ModbusError
from stationkeeper.profiles import ProfileError, load_profile, read_points
from stationkeeper.simulator.config import ConfigError, Endpoint, SimulatorConfig, Station, load_config
from stationkeeper.simulator.control import Control, ControlError, ask
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
    control = commands.add_parser("control", help="faults, writes and log of a running simulator")
    control.add_argument("--socket", type=Path, default=Path("/run/device_simulator/control.sock"))
    control.add_argument("request", help='JSON like {"set": {"kind": "busy", "unit": 1}}, or list, writes, …')
    parsed = parser.parse_args(arguments)
    try:
        if parsed.command == "control":
            return _control(parsed.socket, parsed.request)
        config = load_config(parsed.config)
        if parsed.command == "status":
            return asyncio.run(_status(config))
        return asyncio.run(_run(config))
    except (ConfigError, ProfileError) as error:
        print(f"stationkeeper simulator: {error}", file=sys.stderr)
        return 2
    except (OSError, ControlError) as error:
        print(f"stationkeeper simulator: {error}", file=sys.stderr)
        return 1


def _control(path: Path, request: str) -> int:
    try:
        content = json.loads(request) if request.lstrip().startswith("{") else {request: {}}
    except ValueError as error:
        raise ConfigError(f"control: the request is no JSON: {error}") from None
    result = ask(path, content)
    for line in result if isinstance(result, list) else [result]:
        print(json.dumps(line))
    return 0


def first_heartbeat(now_s: float) -> int:
    """Return a counter above all that an earlier run of this simulator can have served.

    Holds while it serves fewer than 16 answers a second on average: a heartbeat must never name two
    answers, even when the simulator is restarted in the middle of a comparison.
    """
    return int((now_s - _HEARTBEAT_EPOCH_S) * _HEARTBEATS_PER_S) % (1 << 32)


async def _run(config: SimulatorConfig) -> int:
    _allow_many_files()
    station = Station(config, first_heartbeat(time.time()))
    log = ServedLog(config.log)
    servers = [(endpoint, SimulatorServer(endpoint.devices, log)) for endpoint in station.endpoints]
    control = Control(servers)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, log.reopen)
    try:
        said = [await _listen(endpoint, server) for endpoint, server in servers]
        if config.control:
            await control.start(config.control)
        print("\n".join(said), flush=True)
        await _step_until(station, config.time_step_s, stop)
    finally:
        await control.close()
        for _, server in servers:
            await server.close()
        log.close()
    return 0


async def _listen(endpoint: Endpoint, server: SimulatorServer) -> str:
    """Begin to serve an endpoint on all its transports, and return what to say of it."""
    listen = endpoint.listen
    port = await server.start(listen.host, listen.port)
    said = f"serving units {', '.join(map(str, endpoint.devices))} on {listen.host}:{port}"
    if listen.rtu_port is not None:
        said += f", RTU on port {await server.start(listen.host, listen.rtu_port, rtu=True)}"
    if listen.pty is not None:
        line = await server.start_serial()
        # The system chooses the terminal's name; clients know it by this one.
        listen.pty.unlink(missing_ok=True)
        listen.pty.symlink_to(line)
        said += f", RTU on {listen.pty}"
    return said


def _allow_many_files() -> None:
    """Let a large fleet have its sockets."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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
    failed = False
    for listen, devices in config.endpoints().items():
        host = _ANY_ADDRESS.get(listen.host, listen.host)
        client = StrictClient(host, listen.port, timeout_s=2, connect_timeout_s=2)
        for device in devices:
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
