"""A meter at a battery's AC terminals, with noise and energy counters of its own. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

from stationkeeper.simulator.battery import Battery
from stationkeeper.simulator.exceptions import WriteRefusedError


class Meter:
    """Measures one battery; power is + when it discharges into the grid (export)."""

    def __init__(self, battery: Battery, rating_kw: float, noise_kw: float, seed: int) -> None:
        self._battery = battery
        self._rating_kw = rating_kw
        self._noise_kw = noise_kw
        self._random = random.Random(f"meter {seed}")  # noqa: S311 - noise, no secret
        self.power_kw = 0.0
        self._import_kwh = 0.0
        self._export_kwh = 0.0

    def step(self, dt_s: float) -> None:
        """Measure the last `dt_s` seconds; call after the battery's step."""
        self.power_kw = self._battery.power_kw + self._random.uniform(-self._noise_kw, self._noise_kw)
        energy = self.power_kw * dt_s / 3600
        self._export_kwh += max(0.0, energy)
        self._import_kwh += max(0.0, -energy)

    def values(self) -> Mapping[str, float]:
        """Return every value that a profile may map to a register, by its point name."""
        return {
            "power_kw": self.power_kw,
            "voltage_v": self._battery.grid.voltage_v,
            "frequency_hz": self._battery.grid.frequency_hz,
            "energy_import_kwh": self._import_kwh,
            "energy_export_kwh": self._export_kwh,
            "rated_power_kw": self._rating_kw,
        }

    def check(self, name: str, value: float) -> None:
        """Refuse every write: a meter takes no commands."""
        raise WriteRefusedError(f"a meter takes no commands ({name} = {value})")

    def write(self, name: str, value: float) -> None:
        """Never called, because `check` refuses."""
        self.check(name, value)

    def heard(self, what: Literal["message", "write", "feed"]) -> None:
        """Do nothing: a meter has no watchdog."""

    def reboot(self) -> None:
        """Do nothing: a meter has no commands to forget, and its counters are kept."""
