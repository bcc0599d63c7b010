"""The simulator's configuration file, and the devices that it describes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import yaml
from pydantic import ValidationError

from stationkeeper.profiles.load import load_profile
from stationkeeper.profiles.schema import Profile
from stationkeeper.simulator.battery import Battery, BatterySettings, Grid
from stationkeeper.simulator.device import SimulatedDevice
from stationkeeper.simulator.meter import Meter
from stationkeeper.simulator.settings import BatteryDevice, Listen, MeterDevice, SimulatorConfig

__all__ = ["ConfigError", "Endpoint", "SimulatorConfig", "Station", "load_config"]

# Together they stay below the noise floors of the generic profiles, the meter seeing both.
_BATTERY_NOISE = 0.6
_METER_NOISE = 0.3


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is for an operator."""


@dataclass(frozen=True)
class Endpoint:
    """Devices by unit, and where they are served."""

    listen: Listen
    devices: dict[int, SimulatedDevice]


class Station:
    """All devices of a configuration, stepped together."""

    def __init__(self, config: SimulatorConfig, heartbeat: int = 0) -> None:
        self.endpoints: list[Endpoint] = []
        self._batteries: dict[str, Battery] = {}
        self._meters: list[Meter] = []
        self._load = cache(lambda name: load_profile(name, config.profile_path))
        places = config.endpoints()
        # Batteries first, because a meter may stand before its battery in the file.
        for device in chain.from_iterable(places.values()):
            if isinstance(device, BatteryDevice):
                self._batteries[device.name] = _battery(device, self._load(device.profile))
        for listen, devices in places.items():
            devices.sort(key=lambda device: isinstance(device, MeterDevice))
            self.endpoints.append(
                Endpoint(listen, {device.unit: self._device(device, heartbeat) for device in devices})
            )

    @property
    def devices(self) -> dict[int, SimulatedDevice]:
        """The devices of the first endpoint, by unit."""
        return self.endpoints[0].devices

    def step(self, dt_s: float) -> None:
        """Advance everything by `dt_s` seconds."""
        for endpoint in self.endpoints:
            for device in endpoint.devices.values():
                device.step(dt_s)
        for battery in self._batteries.values():
            battery.grid.step(dt_s)
            battery.step(dt_s)
        for meter in self._meters:
            meter.step(dt_s)

    def _device(self, device: BatteryDevice | MeterDevice, heartbeat: int) -> SimulatedDevice:
        profile = self._load(device.profile)
        source: Battery | Meter
        if isinstance(device, BatteryDevice):
            source = self._batteries[device.name]
        else:
            source = _meter(device, profile, self._batteries[device.meter_of])
            self._meters.append(source)
        try:
            return SimulatedDevice(device.name, profile, source, heartbeat, device.values)
        except ValueError as error:
            raise ConfigError(f"device {device.name}: {error}") from None


def load_config(path: Path) -> SimulatorConfig:
    """Read and check a configuration file. Raises `ConfigError` with file and place."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return SimulatorConfig.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from None
    except ValidationError as error:
        problems = [
            f"{path}: {'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
            for detail in error.errors()
        ]
        raise ConfigError("; ".join(problems)) from None


def _battery(device: BatteryDevice, profile: Profile) -> Battery:
    if profile.device_type != "bess":
        raise ConfigError(
            f"device {device.name}: profile {profile.name} is of a {profile.device_type}, no battery"
        )
    rating_kw = device.rating_kw or profile.rating_kw
    watchdog = profile.watchdog
    timeout_s = device.watchdog.timeout_s
    if timeout_s is None:
        timeout_s = watchdog.timeout_s if watchdog else 0
    settings = BatterySettings(
        rating_kw=rating_kw,
        capacity_kwh=device.capacity_kwh or 2 * rating_kw,
        initial_soe_percent=device.initial_soe_percent,
        noise_kw=_noise(device, profile, _BATTERY_NOISE),
        ramp_kw_per_s=device.ramp_kw_per_s or rating_kw / 2,
        watchdog_timeout_s=timeout_s,
        fed_by=device.watchdog.fed_by or (watchdog.fed_by if watchdog else "register_write"),
        fallback=device.watchdog.fallback or (watchdog.fallback if watchdog else "hold_last"),
    )
    return Battery(settings, Grid(device.seed), device.seed)


def _meter(device: MeterDevice, profile: Profile, battery: Battery) -> Meter:
    if profile.device_type != "meter":
        raise ConfigError(
            f"device {device.name}: profile {profile.name} is of a {profile.device_type}, no meter"
        )
    rating_kw = device.rating_kw or battery.settings.rating_kw
    return Meter(battery, rating_kw, _noise(device, profile, _METER_NOISE), device.seed)


def _noise(device: BatteryDevice | MeterDevice, profile: Profile, share: float) -> float:
    noise_kw = share * profile.noise_floor_kw if device.noise_kw is None else device.noise_kw
    if noise_kw > profile.noise_floor_kw:
        raise ConfigError(
            f"device {device.name}: noise_kw {noise_kw} is above the noise floor of profile {profile.name}, "
            f"{profile.noise_floor_kw} kW; nobody could tell its zero from power"
        )
    return noise_kw
