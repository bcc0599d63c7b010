"""Physics of a battery with its inverter: power, energy, temperature, operating state and watchdog. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stationkeeper.simulator.exceptions import WriteRefusedError

Fallback = Literal["zero", "hold_last", "autonomous", "trip"]
FedBy = Literal["any_message", "any_write", "register_write"]

STOP, START = 0, 1
STATUS_STOPPED, STATUS_STANDBY, STATUS_DISCHARGING, STATUS_CHARGING, STATUS_FALLBACK = range(5)
ALARM_WATCHDOG, ALARM_OVER_TEMPERATURE = 1, 2

_OVER_TEMPERATURE_C = 55.0
_DERATING_C = (50.0, 60.0)
_HEATING_C_PER_RATING = 15.0
_THERMAL_TIME_CONSTANT_S = 1800.0


class Grid:
    """The grid at the station: frequency in Hz and line voltage in V, each within bounds."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"grid {seed}")  # noqa: S311 - noise, no secret
        self.frequency_hz = 50.0
        self.voltage_v = 400.0

    def step(self, dt_s: float) -> None:
        """Let both drift for `dt_s` seconds."""
        pull = min(1.0, 0.1 * dt_s)
        self.frequency_hz += self._random.uniform(-0.004, 0.004) - pull * (self.frequency_hz - 50.0)
        self.frequency_hz = min(50.1, max(49.9, self.frequency_hz))
        self.voltage_v += self._random.uniform(-0.3, 0.3) - pull * (self.voltage_v - 400.0)
        self.voltage_v = min(410.0, max(390.0, self.voltage_v))


@dataclass(frozen=True)
class BatterySettings:
    """Fixed properties of one battery. Efficiencies are one way, 0 to 1."""

    rating_kw: float
    capacity_kwh: float
    initial_soe_percent: float
    noise_kw: float
    ramp_kw_per_s: float
    watchdog_timeout_s: int
    fallback: Fallback
    fed_by: FedBy = "register_write"
    charge_efficiency: float = 0.96
    discharge_efficiency: float = 0.96
    ambient_c: float = 20.0


class Battery:
    """A battery that follows its set-point with a ramp; power is + when discharging into the grid.

    Starts in operation at 0 kW. All randomness comes from `seed`, all time from `step`, so the same
    commands at the same steps give the same values.
    """

    def __init__(self, settings: BatterySettings, grid: Grid, seed: int) -> None:
        self.settings = settings
        self.grid = grid
        self._random = random.Random(f"battery {seed}")  # noqa: S311 - noise, no secret
        self._energy_kwh = settings.capacity_kwh * settings.initial_soe_percent / 100
        self._temperature_c = settings.ambient_c
        self._ac_kw = 0.0
        self.power_kw = 0.0
        self._command_kw = 0.0
        self._operating = START
        self._enabled = True
        self._controller_heartbeat = 0
        self._watchdog_timeout_s = settings.watchdog_timeout_s
        self._since_fed_s = 0.0
        self._time_s = 0.0
        # What its management allows, in percent, and a temperature that it is held at.
        self.soe_limits_percent = (0.0, 100.0)
        self.held_temperature_c: float | None = None

    def step(self, dt_s: float) -> None:
        """Advance by `dt_s` seconds; the grid and the meter are stepped by their owner."""
        self._time_s += dt_s
        self._since_fed_s += dt_s
        if self._expired:
            self._fall_back()
        ramp = self.settings.ramp_kw_per_s * dt_s
        self._ac_kw += min(ramp, max(-ramp, self._allowed_kw() - self._ac_kw))
        noise = self._random.uniform(-self.settings.noise_kw, self.settings.noise_kw)
        if self._operating == STOP:
            # The contactor is open: no ramp, and not even noise.
            self._ac_kw = noise = 0.0
        self._move_energy(noise, dt_s / 3600)
        heat = _HEATING_C_PER_RATING * abs(self.power_kw) / self.settings.rating_kw
        towards = self.settings.ambient_c + heat
        self._temperature_c += (towards - self._temperature_c) * min(1.0, dt_s / _THERMAL_TIME_CONSTANT_S)
        if self.held_temperature_c is not None:
            self._temperature_c = self.held_temperature_c

    def values(self) -> Mapping[str, float]:
        """Return every value that a profile may map to a register, by its point name."""
        return {
            "power_kw": self.power_kw,
            "setpoint_kw": self._setpoint_kw,
            "soe_percent": 100 * self._energy_kwh / self.settings.capacity_kwh,
            "voltage_v": self.grid.voltage_v,
            "frequency_hz": self.grid.frequency_hz,
            "temperature_c": self._temperature_c,
            "status": self._status,
            "alarms": self._alarms,
            "running": int(self._operating == START),
            "alarm_active": int(self._alarms != 0),
            "rated_power_kw": self.settings.rating_kw,
            "capacity_kwh": self.settings.capacity_kwh,
            "power_command_kw": self._command_kw,
            "operating_command": self._operating,
            "operating_enable": self._operating,
            "controller_heartbeat": self._controller_heartbeat,
            "watchdog_timeout_s": self._watchdog_timeout_s,
            "watchdog_remaining_s": max(0.0, self._watchdog_timeout_s - self._since_fed_s),
        }

    def check(self, name: str, value: float) -> None:
        """Raise `WriteRefusedError` unless `write` would accept this value; changes nothing."""
        if name == "power_command_kw" and abs(value) > self.settings.rating_kw:
            raise WriteRefusedError(f"{value} kW is beyond the rating of {self.settings.rating_kw} kW")
        if name in ("operating_command", "operating_enable") and value not in (STOP, START):
            raise WriteRefusedError(f"operating command {value} is neither 0 (stop) nor 1 (start)")

    def write(self, name: str, value: float) -> None:
        """Take a command that `check` has passed."""
        if name == "power_command_kw":
            self._command_kw = value
        elif name == "enabled":
            self._enabled = bool(value)
        elif name in ("operating_command", "operating_enable"):
            if self._operating == STOP and value == START:
                # A start never replays an old set-point.
                self._command_kw = 0.0
            self._operating = int(value)
        elif name == "watchdog_timeout_s":
            self._watchdog_timeout_s = int(value)
        elif name == "controller_heartbeat":
            # Only a counter that moves proves a controller that lives.
            if int(value) != self._controller_heartbeat:
                self.heard("feed")
            self._controller_heartbeat = int(value)

    def heard(self, what: Literal["message", "write", "feed"]) -> None:
        """Know that a controller lives: it sent any message, any write, or wrote the watchdog's register."""
        if {"message": "any_message", "write": "any_write", "feed": "register_write"}[
            what
        ] == self.settings.fed_by:
            self._since_fed_s = 0.0

    def reboot(self) -> None:
        """Forget every command: in operation at 0 kW, as after the first start. Energy and time go on."""
        self._command_kw = self._ac_kw = self.power_kw = 0.0
        self._operating, self._enabled = START, True
        self._controller_heartbeat = 0
        self._watchdog_timeout_s = self.settings.watchdog_timeout_s
        self._since_fed_s = 0.0

    @property
    def _expired(self) -> bool:
        return self._watchdog_timeout_s > 0 and self._since_fed_s > self._watchdog_timeout_s

    @property
    def _setpoint_kw(self) -> float:
        """The set-point in force, after operating state and fall-back."""
        if self._operating == STOP:
            return 0.0
        if self._expired and self.settings.fallback == "autonomous":
            # Self-consumption as seen from outside: power that nobody here has asked for.
            return round(0.2 * self.settings.rating_kw * math.sin(self._time_s / 60 + 1), 3)
        return self._command_kw if self._enabled else 0.0

    def _allowed_kw(self) -> float:
        """Power that the battery heads for: its set-point, within rating, temperature and state of energy."""
        cool, hot = _DERATING_C
        derating = min(1.0, max(0.0, (hot - self._temperature_c) / (hot - cool)))
        limit = self.settings.rating_kw * derating
        low, high = self.soe_limits_percent
        soe = 100 * self._energy_kwh / self.settings.capacity_kwh
        lowest, highest = (0.0 if soe >= high else -limit), (0.0 if soe <= low else limit)
        return min(highest, max(lowest, self._setpoint_kw))

    @property
    def _status(self) -> int:
        if self._operating == STOP:
            return STATUS_STOPPED
        if self._expired:
            return STATUS_FALLBACK
        if self._setpoint_kw == 0 and self._ac_kw == 0:
            return STATUS_STANDBY
        return STATUS_CHARGING if self._ac_kw < 0 else STATUS_DISCHARGING

    @property
    def _alarms(self) -> int:
        alarms = ALARM_WATCHDOG if self._expired else 0
        return alarms | (ALARM_OVER_TEMPERATURE if self._temperature_c > _OVER_TEMPERATURE_C else 0)

    def _fall_back(self) -> None:
        if self.settings.fallback == "zero":
            # Forgotten, not suspended: a controller that comes back has to send a new set-point.
            self._command_kw = 0.0
        elif self.settings.fallback == "trip":
            self._operating = STOP

    def _move_energy(self, noise_kw: float, hours: float) -> None:
        drawn_kwh = self._cell_energy(self._ac_kw + noise_kw, hours)
        left = self._energy_kwh - drawn_kwh
        if 0 <= left <= self.settings.capacity_kwh:
            self._energy_kwh, self.power_kw = left, self._ac_kw + noise_kw
        else:
            # Empty or full: what remains to the edge could be moved, but a real one stops before it.
            self._ac_kw = self.power_kw = 0.0

    def _cell_energy(self, ac_kw: float, hours: float) -> float:
        """Energy that leaves the cells (kWh): more than is discharged, and less is stored than is charged."""
        if ac_kw >= 0:
            return ac_kw * hours / self.settings.discharge_efficiency
        return ac_kw * hours * self.settings.charge_efficiency
