"""Simulated stations for tests, in a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.errors import ModbusError
from stationkeeper.profiles import load_profile, run_recipe
from stationkeeper.simulator.config import SimulatorConfig, Station
from stationkeeper.simulator.served_log import ServedLog
from stationkeeper.simulator.server import SimulatorServer

BATTERY, METER = load_profile("generic_battery"), load_profile("generic_meter")


class Rig:
    """Simulated stations in a thread of their own, stepping 20 times a second."""

    def __init__(self, log: Path) -> None:
        self._log = ServedLog(log)
        self._path = log
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._servers: list[Any] = []

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def station(
        self, power_kw: float = 50, alter: Callable[[Station], None] = lambda _: None, **battery: Any
    ) -> int:
        """Start a battery (unit 1) that does `power_kw` and its meter (unit 2); return the port."""
        devices = [
            {
                "unit": 1,
                "name": "b",
                "profile": "generic_battery",
                "watchdog": {"timeout_s": 0},
                "ramp_kw_per_s": 400,
            }
            | battery,
            {"unit": 2, "name": "m", "profile": "generic_meter", "meter_of": "b"},
        ]
        listen = {"host": "127.0.0.1", "port": 0}
        station = Station(
            SimulatorConfig.model_validate({"listen": listen, "log": "log", "devices": devices})
        )
        station.devices[1].source.write("power_command_kw", power_kw)
        for _ in range(100):
            station.step(0.05)
        alter(station)

        async def start() -> int:
            async def step() -> None:
                while True:
                    await asyncio.sleep(0.05)
                    station.step(0.05)

            server = SimulatorServer(station.devices, self._log)
            self._servers.append((server, asyncio.create_task(step())))
            return await server.start("127.0.0.1", 0)

        port: int = self.run(start())
        return port

    def black_hole(self) -> int:
        """Listen and take connections, and never answer."""

        async def start() -> int:
            server = await asyncio.start_server(lambda reader, _writer: reader.read(), "127.0.0.1", 0)
            self._servers.append((server, None))
            number: int = server.sockets[0].getsockname()[1]
            return number

        port: int = self.run(start())
        return port

    def fight(self, port: int, period_s: float = 0.4) -> None:
        """Let another master write 50 kW again and again."""

        client = StrictClient("127.0.0.1", port)

        async def write() -> None:
            while True:
                await asyncio.sleep(period_s)
                with contextlib.suppress(ModbusError):
                    await run_recipe(client, 1, BATTERY, "set_power", power_kw=50)

        async def start() -> None:
            # Connected first: a write right after the stop's would look like a device that ignores.
            await run_recipe(client, 1, BATTERY, "set_power", power_kw=50)
            self._servers.append((None, asyncio.create_task(write())))

        self.run(start())

    @property
    def served(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._path.read_text().splitlines()]

    def close(self) -> None:
        async def end() -> None:
            for server, task in self._servers:
                if task:
                    task.cancel()
                if isinstance(server, SimulatorServer):
                    await server.close()
                elif server:
                    server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._log.close()
