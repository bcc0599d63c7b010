"""A battery and its meter behind their registers, in a time that only the procedure's waiting moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from stationkeeper.modbus.codec import decode, encode
from stationkeeper.modbus.errors import NoAnswerError
from stationkeeper.profiles import Profile, load_profile

STEP_S = 0.05


class World:
    """Physics with the faults that commissioning has to find. Power + discharges."""

    def __init__(self, profile: Profile | None = None, **faults: Any) -> None:
        self.profile = profile or load_profile("generic_battery")
        self.meter = load_profile("generic_meter")
        self.now_s = 0.0
        self.setpoint_kw = 0.0
        self.power_kw = 0.0
        self.running = True
        self.fed_at_s = 0.0
        self.beat = self.meter_beat = 100
        self.held: dict[str, float] = {}
        self.writes: list[tuple[float, str, float]] = []
        self.before_write: Callable[[str, float], None] = lambda _name, _value: None
        self.fallback = faults.pop(
            "fallback", self.profile.watchdog.fallback if self.profile.watchdog else ""
        )
        self.timeout_s: float = faults.pop("timeout_s", 10.0)
        self.sign: int = faults.pop("sign", 1)
        self.meter_sign: int = faults.pop("meter_sign", 1)
        self.noise_kw: float = faults.pop("noise_kw", 0.1)
        self.clamp_kw: float = faults.pop("clamp_kw", 1e9)
        self.frozen: bool = faults.pop("frozen", False)
        self.values: dict[str, float] = {"soe_percent": 50, "alarms": 0} | faults.pop("values", {})
        assert not faults, faults

    # --- time

    def now(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        for _ in range(max(1, round(seconds / STEP_S))):
            self.now_s += STEP_S
            self._step()

    def _step(self) -> None:
        goal = max(-self.clamp_kw, min(self.clamp_kw, self.setpoint_kw)) if self.running else 0.0
        if self.expired:
            if self.fallback == "zero":
                self.setpoint_kw = goal = 0.0
            elif self.fallback == "trip":
                self.running, goal = False, 0.0
            elif self.fallback == "autonomous" and self.running:
                goal = -17.0
        self.power_kw += max(-5.0, min(5.0, goal - self.power_kw))

    @property
    def expired(self) -> bool:
        return self.now_s - self.fed_at_s > self.timeout_s

    # --- registers

    def client(self) -> Any:
        return _Client(self)

    def read(self, unit: int, table: str, address: int, count: int) -> list[int]:
        profile = self.profile if unit == 1 else self.meter
        values = self._values() if unit == 1 else self._metered()
        if unit == 1 and profile.watchdog and profile.watchdog.fed_by == "any_message":
            self.fed_at_s = self.now_s
        words = [0] * count
        for name, point in profile.points.items():
            if point.table != table:
                continue
            for place, word in enumerate(encode(values.get(name, 0.0), point.encoding, "nearest")):
                if 0 <= point.address + place - address < count:
                    words[point.address + place - address] |= word
        return words

    def write(self, _unit: int, address: int, words: list[int]) -> None:
        name, point = next(
            (name, point)
            for name, point in self.profile.points.items()
            if point.table == "holding" and point.address == address
        )
        value = float(str(decode(words, point.encoding)))
        self.before_write(name, value)
        self.writes.append((self.now_s, name, value))
        moved = self.held.get(name) != value
        self.held[name] = value
        watchdog = self.profile.watchdog
        if watchdog and (watchdog.fed_by != "register_write" or (name == watchdog.point and moved)):
            self.fed_at_s = self.now_s
        if name == "power_command_kw":
            self.setpoint_kw = value
        elif name == "operating_command":
            self.running = bool(value)

    def _values(self) -> dict[str, float]:
        self.beat += 0 if self.frozen else 1
        wobble = self.noise_kw if self.beat % 2 else -self.noise_kw
        identity = {expected.point: float(expected.equals) for expected in self.profile.identity}
        return {
            **self.held,
            **identity,
            "heartbeat": self.beat,
            "power_kw": self.sign * self.power_kw + (wobble if self.running else 0),
            "setpoint_kw": self.setpoint_kw if self.running else 0.0,
            "voltage_v": 400,
            "frequency_hz": 50,
            "status": 4 if self.expired else 1,
            **self.values,
        }

    def _metered(self) -> dict[str, float]:
        self.meter_beat += 1
        return {
            "heartbeat": self.meter_beat,
            "power_kw": self.meter_sign * self.power_kw,
            "voltage_v": 400,
            "frequency_hz": 50,
        }


class _Client:
    connected = True

    def __init__(self, world: World) -> None:
        self._world = world

    async def read(self, unit: int, table: Any, address: int, count: int) -> list[int]:
        return self._world.read(unit, str(table), address, count)

    async def write(self, unit: int, address: int, words: list[int]) -> None:
        self._world.write(unit, address, words)


def silence(*_: Any) -> None:
    """A device that takes nothing more."""
    raise NoAnswerError("silence", writing=True)
