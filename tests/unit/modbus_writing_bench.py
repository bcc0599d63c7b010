"""A simulated battery on a loopback socket, whose time passes only when the write engine waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.writing.evidence import WriteResult
from stationkeeper.modbus.writing.points import ProfilePlaces, point_request
from stationkeeper.modbus.writing.request import Plan, Verify, plan
from stationkeeper.modbus.writing.session import Patience, Session
from stationkeeper.profiles import parse_profile
from stationkeeper.profiles.load import DATA
from stationkeeper.simulator.config import SimulatorConfig, Station
from stationkeeper.simulator.faults import Fault
from stationkeeper.simulator.server import SimulatorServer

EXTRA_POINTS: dict[str, Any] = {
    "limit_kw": {"table": "holding", "address": 20, "type": "int16", "scale": 0.1, "unit": "kW"},
    "mode": {"table": "holding", "address": 21, "type": "uint16", "mask": 0x0F00},
    "grid_forming": {"table": "holding", "address": 21, "type": "bit", "bit": 0},
    "spare": {"table": "holding", "address": 21, "type": "uint16", "mask": 0x00F0},
    "reset": {"table": "holding", "address": 22, "type": "uint16"},
    "ratio": {"table": "holding", "address": 24, "type": "float32"},
    "relay": {"table": "coil", "address": 8, "type": "bit"},
    "saved_kw": {"table": "holding", "address": 30, "type": "int16", "unit": "kW", "storage": "flash"},
    "local": {"table": "holding", "address": 40, "type": "uint16"},
}
# A proof without waiting for other masters, for tests that are about something else.
QUICK = Verify(window_s=2, interval_s=0.5, samples=1, hold_s=0, other_master_cycle_s=0)


def profile_content(**changes: Any) -> dict[str, Any]:
    """The generic battery with registers of all kinds."""
    content: dict[str, Any] = yaml.safe_load((DATA / "generic_battery.yaml").read_text())
    content["name"] = "bench_battery"
    content["points"] |= EXTRA_POINTS
    return content | {"alarm_point": "alarms", "write_only": ["reset"], "min_write_interval_s": 60} | changes


class FakeClock:
    """Time that passes by `sleep` alone, and takes the simulated station along."""

    def __init__(self) -> None:
        self.station: Station | None = None
        self._now = 0.0
        self._start = datetime(2026, 3, 1, 12, tzinfo=UTC)
        self.sleeps: list[float] = []

    def now(self) -> float:
        return self._now

    def utc(self) -> datetime:
        return self._start + timedelta(seconds=self._now)

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        left = seconds
        while left > 1e-9:
            step = min(0.05, left)
            left -= step
            self._now += step
            if self.station:
                self.station.step(step)


class Noted:
    """A gate that lets everything pass and remembers it."""

    def __init__(self) -> None:
        self.intents: list[tuple[str, bool]] = []
        self.rows: list[WriteResult] = []

    def check(self, plan: Plan, *, towards_zero: bool) -> None:
        pass

    def before(self, plan: Plan, *, towards_zero: bool) -> None:
        self.intents.append((plan.place.name, towards_zero))

    def after(self, result: WriteResult) -> None:
        self.rows.append(result)


class Bench:
    """The simulated battery (unit 1, doing 40 kW) and a session to it."""

    def __init__(self, content: dict[str, Any], directory: Path) -> None:
        self.profile = parse_profile(content, "bench")
        (directory / f"{self.profile.name}.yaml").write_text(yaml.safe_dump(content))
        config = {
            "listen": {"host": "127.0.0.1"},
            "log": "unused",
            "profile_path": [str(directory)],
            "devices": [
                {"unit": 1, "name": "b", "profile": self.profile.name, "watchdog": {"timeout_s": 0}},
                {"unit": 2, "name": "m", "profile": "generic_meter", "meter_of": "b"},
            ],
        }
        station = Station(SimulatorConfig.model_validate(config))
        station.devices[1].source.write("power_command_kw", 40)
        self.clock = FakeClock()
        self.clock.station = station
        self.server = SimulatorServer(station.devices)
        self.places = ProfilePlaces(self.profile)
        self.gate = Noted()
        self.port = 0

    async def open(self) -> Session:
        self.port = await self.server.start("127.0.0.1", 0)
        await self.clock.sleep(5)
        self.clock.sleeps.clear()
        self.client = StrictClient("127.0.0.1", self.port, 5, 5)
        self.session = Session(
            self.client,
            1,
            self.gate,
            self.clock,  # type: ignore[arg-type]
            Patience(busy_timeout_s=3, settle_s=1),
        )
        return self.session

    async def close(self) -> None:
        await self.client.close()
        await self.server.close()

    def fault(self, kind: str, **settings: Any) -> None:
        self.server.faults.set(Fault(kind=kind, unit=1, **settings))

    def plan(self, name: str, value: Any, **changes: Any) -> Plan:
        """A plan for a point, with a quick proof by the written register itself."""
        request = replace(point_request(self.places, name, value), verify=QUICK)
        return plan(replace(request, **changes))

    def setpoint(self, value: Any, **pace: Any) -> Plan:
        """A plan for the power set-point, proven by the set-point in force."""
        place = self.places.place("setpoint_kw")
        verify = replace(QUICK, mode="readback", place=place, tolerance=0.001, **pace)
        return self.plan("power_command_kw", value, verify=verify)

    def requests(self, *functions: int) -> list[dict[str, Any]]:
        """The served requests with these functions (without: all)."""
        return [entry for entry in self.server.recent() if not functions or entry["function"] in functions]

    @property
    def writes(self) -> list[dict[str, Any]]:
        return self.requests(5, 6, 15, 16, 22)


Scenario = Callable[[Bench], Awaitable[None]]


def run(directory: Path, scenario: Scenario, *, builtin: str = "", **profile: Any) -> None:
    """Run a scenario on a bench: the battery with registers of all kinds, or of a built-in profile."""

    async def whole() -> None:
        content = (
            yaml.safe_load((DATA / f"{builtin}.yaml").read_text()) if builtin else profile_content(**profile)
        )
        bench = Bench(content, directory)
        await bench.open()
        try:
            await scenario(bench)
        finally:
            await bench.close()

    asyncio.run(whole())
