"""Schema of the controller's configuration: unknown keys are refused, units are in names or values."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def parse_duration(value: object) -> float:
    """Return seconds from text like ``30s``, ``500ms``, ``1.5m`` or ``2h``. Raises ValueError."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise PydanticCustomError(
            "duration",
            "'{value}' is not a duration; write a number with its unit, like 30s",
            {"value": value},
        )
    return float(match[1]) * _UNITS_S[match[2]]


Duration = Annotated[float, BeforeValidator(parse_duration)]
Percent = Annotated[float, Field(ge=0, le=100)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in data:
                if key not in known:
                    close = difflib.get_close_matches(str(key), known, 1)
                    hint = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"
                    raise PydanticCustomError(
                        "unknown_key", "unknown key; {hint}", {"hint": hint, "key": key}
                    )
        return data


class Modbus(_Section):
    """Where a device answers; ``timeout`` is for one answer."""

    host: str = Field(min_length=1)
    port: int = Field(default=502, ge=1, le=65535)
    unit: int = Field(ge=1, le=247)
    timeout_s: Duration = Field(default=3.0, alias="timeout", ge=0.1, le=30)


class _Device(_Section):
    id: Annotated[UUID, Field(strict=False)]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    profile: str
    modbus: Modbus


class Battery(_Device):
    """A battery; the set-point never leaves -rating_kw to rating_kw.

    Without ``writes_enabled`` it is only measured: no set-point and no heartbeat, as in commissioning.
    """

    rating_kw: float = Field(gt=0)
    capacity_kwh: float = Field(gt=0)
    writes_enabled: bool = True


class Meter(_Device):
    """A meter; ``measures`` is the name of the battery behind it, none for the grid connection."""

    measures: str | None = None


class Devices(_Section):
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


class LimitsComponent(_Section):
    """Site limits that tighten those of rating and profile. Never wider than the profile's."""

    type: Literal["limits"]
    min_soe_percent: Percent | None = None
    max_soe_percent: Percent | None = None
    max_charge_kw: float | None = Field(default=None, ge=0)
    max_discharge_kw: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.min_soe_percent, self.max_soe_percent
        if low is not None and high is not None and low >= high:
            raise ValueError(f"min_soe_percent {low:g} must be below max_soe_percent {high:g}")
        return self


class MaintenanceComponent(_Section):
    """Holds 0 kW while ``enabled``."""

    type: Literal["maintenance_mode"]
    enabled: bool = False


class ToSoeComponent(_Section):
    """Charges or discharges with ``power_kw`` (default: all that the limits allow) towards a target."""

    type: Literal["to_soe"]
    enabled: bool = True
    target_soe_percent: Percent
    deadband_percent: float = Field(default=1.0, gt=0, le=50)
    power_kw: float | None = Field(default=None, gt=0)


Component = Annotated[LimitsComponent | MaintenanceComponent | ToSoeComponent, Field(discriminator="type")]


class Controller(_Section):
    """``poll_interval`` is the time between samples; older measurements than ``stale_after`` are not used."""

    poll_interval_s: Duration = Field(default=60.0, alias="poll_interval", ge=0.2, le=3600)
    stale_after_s: Duration | None = Field(default=None, alias="stale_after", ge=0.5)
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

    @property
    def freshness_s(self) -> float:
        """Age in seconds from which a measurement is stale: two samples may be missed."""
        return self.stale_after_s if self.stale_after_s is not None else 3 * self.poll_interval_s + 1

    @property
    def limits(self) -> LimitsComponent | None:
        """The site's limits, if configured."""
        return next((part for part in self.components if isinstance(part, LimitsComponent)), None)

    @property
    def maintenance(self) -> bool:
        """Whether maintenance mode is switched on."""
        return any(part.enabled for part in self.components if isinstance(part, MaintenanceComponent))

    @property
    def to_soe(self) -> ToSoeComponent | None:
        """The target component, if configured and enabled."""
        return next((p for p in self.components if isinstance(p, ToSoeComponent) and p.enabled), None)


class Upload(_Section):
    """Rows per transaction, and the time between uploads."""

    batch_size: int = Field(default=100, ge=1, le=10000)
    interval_s: Duration = Field(default=10.0, alias="interval", ge=0.1, le=3600)


class Buffer(_Section):
    """Bounds of the store; beyond them the oldest rows are dropped, and the dropped range is recorded."""

    max_rows: int = Field(default=2_000_000, ge=100)
    max_bytes: int = Field(default=1_000_000_000, ge=1_000_000)


class DataPlatform(_Section):
    """The way of the telemetry."""

    upload: Upload = Upload()
    buffer: Buffer = Buffer()


class Metrics(_Section):
    """Where Prometheus fetches the metrics."""

    address: str = "0.0.0.0"  # noqa: S104 (Prometheus runs on another host; the firewall admits only it)
    port: int = Field(default=9105, ge=0, le=65535)


class Logging(_Section):
    """``file`` is an additional log file (reopened on SIGHUP); standard error is always used."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    file: str | None = None


class Config(_Section):
    """The merged configuration of one station."""

    site: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    controller: Controller = Controller()
    data_platform: DataPlatform = DataPlatform()
    devices: Devices
    metrics: Metrics = Metrics()
    logging: Logging = Logging()


class Database(_Section):
    """Connection settings (database.yaml); the keys are those of `stationkeeper.database.connection`."""

    hosts: tuple[str, ...] = Field(min_length=1, strict=False)
    port: int = Field(default=5432, ge=1, le=65535)
    name: str = Field(min_length=1)
    user: str = Field(min_length=1)
    password: str = Field(default="", repr=False)
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    sslrootcert: str | None = None
