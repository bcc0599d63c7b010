"""Schema of the controller's configuration: unknown keys are refused, units are in names or values."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from stationkeeper.controller.modes import Rules
from stationkeeper.controller.schema_base import Duration, Section
from stationkeeper.controller.schema_components import (
    Component,
    LimitsComponent,
    MaintenanceComponent,
    ToSoeComponent,
)


class Modbus(Section):
    """Where a device answers; ``timeout`` is for one answer."""

    host: str = Field(min_length=1)
    port: int = Field(default=502, ge=1, le=65535)
    unit: int = Field(ge=1, le=247)
    timeout_s: Duration = Field(default=3.0, alias="timeout", ge=0.1, le=30)


class _Device(Section):
    id: Annotated[UUID, Field(strict=False)]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    profile: str
    modbus: Modbus
    stale_after_s: Duration | None = Field(default=None, alias="stale_after", ge=0.5)


class Battery(_Device):
    """A battery; the set-point never leaves -rating_kw to rating_kw, nor changes faster than its ramp.

    Without ``writes_enabled`` it is only measured: no set-point and no heartbeat, as in commissioning.
    """

    rating_kw: float = Field(gt=0)
    capacity_kwh: float = Field(gt=0)
    max_ramp_kw_per_s: float | None = Field(default=None, gt=0)
    writes_enabled: bool = True


class Meter(_Device):
    """A meter; ``measures`` is the name of the battery behind it, none for the grid connection."""

    measures: str | None = None


class Devices(Section):
    """The devices of the station by type."""

    bess: tuple[Battery, ...] = Field(default=(), strict=False)
    meter: tuple[Meter, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        devices: list[Battery | Meter] = [*self.bess, *self.meter]
        if not devices:
            raise ValueError("the station has no device; add one under bess or meter")
        for what, keys in (
            ("id", [str(device.id) for device in devices]),
            ("name", [device.name for device in devices]),
            (
                "modbus host, port and unit",
                [device.modbus.model_dump_json(exclude={"timeout_s"}) for device in devices],
            ),
        ):
            twice = {key for key in keys if keys.count(key) > 1}
            if twice:
                owners = ", ".join(d.name for d, key in zip(devices, keys, strict=True) if key in twice)
                raise ValueError(f"these devices have the same {what}: {owners}; give each its own")
        names = {battery.name for battery in self.bess}
        for meter in self.meter:
            if meter.measures is not None and meter.measures not in names:
                raise ValueError(
                    f"{meter.name} measures '{meter.measures}', which is no battery of this station"
                )
        return self


class SafeMode(Section):
    """When a station goes to safe mode by itself; everything else that leads there cannot be switched off."""

    require_synchronised_clock: bool = True
    verification_failures: int = Field(default=3, ge=2, le=20)


# The fixed order of the components that can be configured.
CONFIGURABLE = ("limits", "maintenance_mode", "to_soe")


class Controller(Section):
    """``poll_interval`` is the time between samples; older measurements than ``stale_after`` are not used."""

    poll_interval_s: Duration = Field(default=60.0, alias="poll_interval", ge=0.2, le=3600)
    stale_after_s: Duration | None = Field(default=None, alias="stale_after", ge=0.5)
    max_ramp_kw_per_s: float | None = Field(default=None, gt=0)
    safe_mode: SafeMode = SafeMode()
    components: tuple[Component, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        types = [component.type for component in self.components]
        twice = sorted({kind for kind in types if types.count(kind) > 1})
        if twice:
            raise ValueError(f"component '{twice[0]}' appears twice; keep one")
        if self.stale_after_s is not None and self.stale_after_s <= self.poll_interval_s:
            raise ValueError("stale_after must be longer than poll_interval")
        return self

    @model_validator(mode="after")
    def _priorities(self) -> Self:
        numbered = [part for part in self.components if part.priority is not None]
        numbers = [part.priority for part in numbered]
        twice = {number for number in numbers if numbers.count(number) > 1}
        if twice:
            names = " and ".join(part.type for part in numbered if part.priority in twice)
            raise ValueError(f"{names} have the same priority; give each its own, 0 is the highest")
        by_number = [part.type for part in sorted(numbered, key=lambda part: part.priority or 0)]
        if by_number != [kind for kind in CONFIGURABLE if kind in by_number]:
            raise ValueError(
                f"the priorities say {', '.join(by_number)}, but the order is fixed: "
                f"{', '.join(CONFIGURABLE)} (emergency stop stands above all); correct or remove them"
            )
        return self

    @property
    def freshness_s(self) -> float:
        """Age in seconds from which a measurement is stale: two samples may be missed."""
        return self.stale_after_s if self.stale_after_s is not None else 3 * self.poll_interval_s + 1

    def freshness_of(self, device: Battery | Meter) -> float:
        """Age in seconds from which this device's measurements are stale."""
        return device.stale_after_s if device.stale_after_s is not None else self.freshness_s

    @property
    def limits(self) -> LimitsComponent | None:
        """The site's limits, if configured."""
        return next((part for part in self.components if isinstance(part, LimitsComponent)), None)

    @property
    def rules(self) -> Rules:
        """What is configured about holds of the whole station."""
        part = next((p for p in self.components if isinstance(p, MaintenanceComponent)), None)
        clock = self.safe_mode.require_synchronised_clock
        if part is None:
            return Rules(require_clock=clock)
        windows = tuple(section.window for section in part.windows)
        return Rules(part.enabled, windows, part.afterwards == "idle", clock)

    @property
    def to_soe(self) -> ToSoeComponent | None:
        """The target component, if configured and enabled."""
        return next((p for p in self.components if isinstance(p, ToSoeComponent) and p.enabled), None)


class Upload(Section):
    """Rows per transaction, and the time between uploads."""

    batch_size: int = Field(default=100, ge=1, le=10000)
    interval_s: Duration = Field(default=10.0, alias="interval", ge=0.1, le=3600)


class Buffer(Section):
    """Bounds of the store; beyond them the oldest rows are dropped, and the dropped range is recorded.

    Uploaded rows stay for ``retention_days``, unless the space is needed.
    """

    max_rows: int = Field(default=2_000_000, ge=100)
    max_bytes: int = Field(default=1_000_000_000, ge=1_000_000)
    retention_days: float = Field(default=7.0, ge=0, le=3650)

    @property
    def retention_s(self) -> float:
        """The same in seconds."""
        return self.retention_days * 86400


class DataPlatform(Section):
    """The way of the telemetry."""

    upload: Upload = Upload()
    buffer: Buffer = Buffer()


class Metrics(Section):
    """Where Prometheus fetches the metrics."""

    address: str = "0.0.0.0"  # noqa: S104 (Prometheus runs on another host; the firewall admits only it)
    port: int = Field(default=9105, ge=0, le=65535)


class Logging(Section):
    """``file`` is an additional log file (reopened on SIGHUP); standard error is always used."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    file: str | None = None


class Config(Section):
    """The merged configuration of one station."""

    site: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    controller: Controller = Controller()
    data_platform: DataPlatform = DataPlatform()
    devices: Devices
    metrics: Metrics = Metrics()
    logging: Logging = Logging()

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        for device in (*self.devices.bess, *self.devices.meter):
            if device.stale_after_s is not None and device.stale_after_s <= self.controller.poll_interval_s:
                raise ValueError(f"{device.name}: stale_after must be longer than controller.poll_interval")
        limits = self.controller.limits
        meters = {meter.name for meter in self.devices.meter if meter.measures is None}
        if limits is not None and limits.grid_meter is not None and limits.grid_meter not in meters:
            raise ValueError(
                f"limits: grid_meter '{limits.grid_meter}' is no meter of this station that measures the "
                "grid connection (a meter without `measures`)"
            )
        return self


class Database(Section):
    """Connection settings (database.yaml); the keys are those of `stationkeeper.database.connection`."""

    hosts: tuple[str, ...] = Field(min_length=1, strict=False)
    port: int = Field(default=5432, ge=1, le=65535)
    name: str = Field(min_length=1)
    user: str = Field(min_length=1)
    password: str = Field(default="", repr=False)
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    sslrootcert: str | None = None
    channel_binding: Literal["disable", "prefer", "require"] = "prefer"
