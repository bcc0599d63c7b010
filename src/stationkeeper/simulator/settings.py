"""The schema of the simulator's configuration file."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from stationkeeper.simulator.battery import Fallback, FedBy


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Strict):
    """Where devices are served: Modbus TCP, and beside it RTU over TCP and a serial line, if so."""

    host: str
    port: int = Field(default=502, ge=0, le=65535)
    rtu_port: int | None = Field(default=None, ge=0, le=65535)
    pty: Path | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class WatchdogSettings(_Strict):
    """Deviations from the profile's watchdog; `timeout_s` 0 switches it off."""

    timeout_s: int | None = Field(default=None, ge=0, le=65535)
    fed_by: FedBy | None = None
    fallback: Fallback | None = None


class _Device(_Strict):
    unit: int = Field(ge=1, le=247)
    listen: Listen | None = None
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


def _tell_apart(content: Any) -> Any:
    # A device with `meter_of` is a meter: nobody has to say so twice, and errors name one kind only.
    if not isinstance(content, dict):
        return content
    return {**content, "type": "meter" if "meter_of" in content else "battery"}


Device = Annotated[
    Annotated[BatteryDevice | MeterDevice, Field(discriminator="type")], BeforeValidator(_tell_apart)
]


class Fleet(_Strict):
    """`count` sites with the same devices: `listen` is the first's, each next has the next port or address.

    A device's name gets the site's number, from 0001 on, and its seed is moved by it.
    """

    count: int = Field(ge=1, le=10000)
    listen: Listen
    spread: Literal["port", "address"] = "port"
    devices: list[Device] = Field(min_length=1)

    def sites(self) -> list[BatteryDevice | MeterDevice]:
        """Return the devices of all sites, each with its own address."""
        return [self._at(device, number) for number in range(self.count) for device in self.devices]

    def _at(self, device: BatteryDevice | MeterDevice, number: int) -> BatteryDevice | MeterDevice:
        if self.spread == "port":
            listen = self.listen.model_copy(update={"port": self.listen.port + number})
        else:
            host = str(ipaddress.ip_address(self.listen.host) + number)
            listen = self.listen.model_copy(update={"host": host})
        changes: dict[str, Any] = {
            "name": f"{device.name}-{number + 1:04}",
            "seed": device.seed + 1000 * (number + 1),
            "listen": listen,
        }
        if isinstance(device, MeterDevice):
            changes["meter_of"] = f"{device.meter_of}-{number + 1:04}"
        return device.model_copy(update=changes)

    @model_validator(mode="after")
    def _has_room(self) -> Fleet:
        if any(device.listen for device in self.devices):
            raise ValueError("a device of the fleet has no `listen` of its own")
        if self.listen.rtu_port is not None or self.listen.pty is not None:
            raise ValueError("a fleet is served on Modbus TCP only, so no `rtu_port` and no `pty`")
        if self.spread == "port" and not 0 < self.listen.port <= 65536 - self.count:
            raise ValueError(
                f"no room for {self.count} ports from {self.listen.port} on; use spread: address"
            )
        if self.spread == "address":
            try:
                _ = ipaddress.ip_address(self.listen.host) + self.count
            except ValueError as error:
                raise ValueError(f"spread: address needs an IP address to begin with: {error}") from None
        return self


class SimulatorConfig(_Strict):
    """The whole file."""

    listen: Listen | None = None
    log: Path
    control: Path | None = None
    time_step_s: float = Field(default=0.25, ge=0.01, le=10)
    profile_path: list[Path] = Field(default_factory=list)
    devices: list[Device] = Field(default_factory=list)
    fleet: Fleet | None = None

    def endpoints(self) -> dict[Listen, list[BatteryDevice | MeterDevice]]:
        """Return the devices by where they are served, in the order of the file."""
        places: dict[Listen, list[BatteryDevice | MeterDevice]] = {}
        for device in [*self.devices, *(self.fleet.sites() if self.fleet else [])]:
            listen = device.listen or self.listen
            assert listen is not None
            places.setdefault(listen, []).append(device)
        return places

    @model_validator(mode="after")
    def _holds_together(self) -> SimulatorConfig:
        if not self.devices and self.fleet is None:
            raise ValueError("there are neither `devices` nor a `fleet`")
        nowhere = [device.name for device in self.devices if not (device.listen or self.listen)]
        if nowhere:
            raise ValueError(f"devices: {', '.join(nowhere)} needs a `listen`, of its own or for all")
        batteries = set()
        names: list[str] = []
        addresses: list[str] = []
        for listen, devices in self.endpoints().items():
            _check_twice("unit", [device.unit for device in devices])
            names += [device.name for device in devices]
            if listen.port:
                addresses.append(str(listen))
            batteries |= {device.name for device in devices if isinstance(device, BatteryDevice)}
        _check_twice("name", names)
        _check_twice("listen", addresses)
        for devices in self.endpoints().values():
            for device in devices:
                if isinstance(device, MeterDevice) and device.meter_of not in batteries:
                    raise ValueError(
                        f"devices: {device.name} is meter_of {device.meter_of}, which is no battery here"
                    )
        return self


def _check_twice(key: str, seen: list[Any]) -> None:
    if len(set(seen)) < len(seen):
        twice = sorted({entry for entry in seen if seen.count(entry) > 1})
        raise ValueError(f"devices: {key} {', '.join(map(str, twice))} is used twice")
