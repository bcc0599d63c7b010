"""Schema of the components, of which the controller's configuration has at most one each."""

from __future__ import annotations

from datetime import time
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stationkeeper.controller.schema_base import ClockTime, Percent, Section
from stationkeeper.controller.windows import DAYS, Window, zone_of


class _Component(Section):
    """``priority`` 0 is the highest. The order is fixed, so numbers may only say it, never change it."""

    priority: int | None = Field(default=None, ge=0)


class LimitsComponent(_Component):
    """Site limits that tighten those of rating and profile. Never wider than the profile's.

    Import and export are the exchange with the grid, as ``grid_meter`` measures it (+ feeds into the grid).
    """

    type: Literal["limits"]
    min_soe_percent: Percent | None = None
    max_soe_percent: Percent | None = None
    max_charge_kw: float | None = Field(default=None, ge=0)
    max_discharge_kw: float | None = Field(default=None, ge=0)
    max_import_kw: float | None = Field(default=None, ge=0)
    max_export_kw: float | None = Field(default=None, ge=0)
    grid_meter: str | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.min_soe_percent, self.max_soe_percent
        if low is not None and high is not None and low >= high:
            raise ValueError(f"min_soe_percent {low:g} must be below max_soe_percent {high:g}")
        limited = self.max_import_kw is not None or self.max_export_kw is not None
        if limited != (self.grid_meter is not None):
            raise ValueError(
                "max_import_kw and max_export_kw go with grid_meter, the name of the meter there"
            )
        return self


class WindowSection(Section):
    """A weekly maintenance window in local time; ``end`` at or before ``start`` lies on the next day."""

    name: str = Field(min_length=1)
    days: tuple[Literal[DAYS], ...] = Field(min_length=1, strict=False)  # type: ignore[valid-type]
    start: ClockTime
    end: ClockTime
    time_zone: str = "UTC"

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        zone_of(self.time_zone)
        if self.start == self.end:
            raise ValueError("start and end are the same; a window of a whole day is 00:00 to 24:00")
        return self

    @property
    def window(self) -> Window:
        """The window for calculations."""
        days = frozenset(DAYS.index(day) for day in self.days)
        end = "00:00" if self.end == "24:00" else self.end
        return Window(
            self.name, days, time.fromisoformat(self.start), time.fromisoformat(end), zone_of(self.time_zone)
        )


class MaintenanceComponent(_Component):
    """Holds 0 kW while ``enabled`` and within the windows.

    After a window the station waits at 0 kW for a fresh set-point (``idle``), or its programme goes on
    (``continue``).
    """

    type: Literal["maintenance_mode"]
    enabled: bool = False
    windows: tuple[WindowSection, ...] = Field(default=(), strict=False)
    afterwards: Literal["idle", "continue"] = "idle"

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [window.name for window in self.windows]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two windows are called '{twice[0]}'; give each its own name")
        return self


class ToSoeComponent(_Component):
    """Charges or discharges with ``power_kw`` (default: all that the limits allow) towards a target."""

    type: Literal["to_soe"]
    enabled: bool = True
    target_soe_percent: Percent
    deadband_percent: float = Field(default=1.0, gt=0, le=50)
    power_kw: float | None = Field(default=None, gt=0)


Component = Annotated[LimitsComponent | MaintenanceComponent | ToSoeComponent, Field(discriminator="type")]
