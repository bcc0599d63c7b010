"""The simulator's configuration file, and the devices that it describes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stationkeeper.profiles.load import load_profile
from stationkeeper.profiles.schema import Profile
from stationkeeper.simulator.battery import Battery, BatterySettings, Fallback, FedBy, Grid
from stationkeeper.simulator.device import SimulatedDevice
from stationkeeper.simulator.meter import Meter

# Together they stay below the noise floors of the generic profiles, the meter seeing both.
_BATTERY_NOISE = 0.6
_METER_NOISE = 0.3


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is for an operator."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Strict):
    """Address of the server."""

    host: str
    port: int = Field(default=502, ge=0, le=65535)


class WatchdogSettings(_Strict):
    """Deviations from the profile's watchdog; `timeout_s` 0 switches it off."""

    timeout_s: int | None = Field(default=None, ge=0, le=65535)
    fed_by: FedBy | None = None
    fallback: Fallback | None = None


class _Device(_Strict):
    unit: int = Field(ge=1, le=247)
    name: str = Field(min_length=1)
    profile: str
    seed: int = 0
    noise_kw: float | None = Field(default=None, ge=0)
    rating_kw: float | None = Field(default=None, gt=0)
    values: dict[str, float] = Field(default_factory=dict)


class BatteryDevice(_Device):
    """A battery; what is left out comes from its profile."""

    type: Literal["battery"] = "battery"
    capacity_kwh: float | None = Field(default=None, gt=0)
    initial_soe_percent: float = Field(default=50, ge=0, le=100)
    ramp_kw_per_s: float | None = Field(default=None, gt=0)
    watchdog: WatchdogSettings = WatchdogSettings()


class MeterDevice(_Device):
    """A meter at the AC terminals of the battery named `meter_of`."""

    type: Literal["meter"] = "meter"
    meter_of: str


class SimulatorConfig(_Strict):
    """The whole file."""

    listen: Listen
    log: Path
    time_step_s: float = Field(default=0.25, ge=0.01, le=10)
    profile_path: list[Path] = Field(default_factory=list)
    devices: list[Annotated[BatteryDevice | MeterDevice, Field(discriminator="type")]] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _tell_kinds_apart(cls, content: object) -> object:
        # A device with `meter_of` is a meter: nobody has to say so twice, and errors name one kind only.
        if isinstance(content, dict) and isinstance(content.get("devices"), list):
            devices = [
                {**device, "type": "meter" if "meter_of" in device else "battery"}
                if isinstance(device, dict)
                else device
                for device in content["devices"]
            ]
            return {**content, "devices": devices}
        return content

    @model_validator(mode="after")
    def _holds_together(self) -> SimulatorConfig:
        for key in ("unit", "name"):
            seen = [getattr(device, key) for device in self.devices]
            twice = {entry for entry in seen if seen.count(entry) > 1}
            if twice:
                raise ValueError(f"devices: {key} {', '.join(map(str, sorted(twice)))} is used twice")
        batteries = {device.name for device in self.devices if isinstance(device, BatteryDevice)}
        for device in self.devices:
            if isinstance(device, MeterDevice) and device.meter_of not in batteries:
                raise ValueError(
                    f"devices: {device.name} is meter_of {device.meter_of}, which is no battery here"
                )
        return self


class Station:
    """All devices of a configuration, stepped together."""

    def __init__(self, config: SimulatorConfig, heartbeat: int = 0) -> None:
        self.devices: dict[int, SimulatedDevice] = {}
        self._batteries: dict[str, Battery] = {}
        self._meters: list[Meter] = []
        # Batteries first, because a meter may stand before its battery in the file.
        for device in sorted(config.devices, key=lambda device: isinstance(device, MeterDevice)):
            profile = load_profile(device.profile, config.profile_path)
            source: Battery | Meter
            if isinstance(device, BatteryDevice):
                source = self._batteries[device.name] = _battery(device, profile)
            else:
                source = _meter(device, profile, self._batteries[device.meter_of])
                self._meters.append(source)
            try:
                self.devices[device.unit] = SimulatedDevice(
                    device.name, profile, source, heartbeat, device.values
                )
            except ValueError as error:
                raise ConfigError(f"device {device.name}: {error}") from None

    def step(self, dt_s: float) -> None:
        """Advance everything by `dt_s` seconds."""
        for device in self.devices.values():
            device.step(dt_s)
        for battery in self._batteries.values():
            battery.grid.step(dt_s)
            battery.step(dt_s)
        for meter in self._meters:
            meter.step(dt_s)


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
