"""The schema of a device profile: a device type's contract, validated before anything uses it."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from stationkeeper.modbus.client import Table
from stationkeeper.modbus.codec import CodecError, DataType, encode
from stationkeeper.profiles.parts import (
    Block,
    Expectation,
    Limits,
    Name,
    Point,
    RecipeName,
    Step,
    Strict,
    Telemetry,
    Verify,
    Watchdog,
)

__all__ = [
    "Block",
    "Expectation",
    "Limits",
    "Name",
    "Point",
    "Profile",
    "RecipeName",
    "Step",
    "Telemetry",
    "Verify",
    "Watchdog",
]


class Profile(Strict):
    """A device type: its registers, units, limits, recipes and watchdog behaviour.

    Power is + when discharging into the grid in every point; a device with the other sign has a
    negative scale.
    """

    name: Name
    version: int = Field(ge=1)
    device_type: Literal["bess", "meter"]
    description: str = ""
    rating_kw: float = Field(gt=0)
    noise_floor_kw: float = Field(ge=0)
    points: dict[Name, Point] = Field(min_length=1)
    telemetry: Telemetry
    heartbeat: Name
    measured_power: Name
    status: dict[int, str] = Field(default_factory=dict)
    alarms: dict[int, str] = Field(default_factory=dict)
    alarm_point: Name | None = None
    identity: list[Expectation] = Field(default_factory=list)
    local_mode: Expectation | None = None
    limits: Limits | None = None
    recipes: dict[RecipeName, list[Step]] = Field(default_factory=dict)
    on_partial: RecipeName = "zero_power"
    atomic: bool = True
    verify: Verify | None = None
    watchdog: Watchdog | None = None
    write_only: list[Name] = Field(default_factory=list)
    min_write_interval_s: float = Field(default=0, ge=0, allow_inf_nan=False)
    max_connections: int = Field(default=1, ge=1)
    min_request_gap_ms: int = Field(default=0, ge=0)
    apply_latency_s: float = Field(default=0, ge=0)

    @cached_property
    def addresses_models(self) -> bool:
        """True when points are addressed by SunSpec model, so a device has to be asked where they lie."""
        return any(point.model for point in self.points.values())

    @model_validator(mode="after")
    def _holds_together(self) -> Profile:
        self._check_overlap()
        self._check_names()
        self._check_companions()
        self._check_telemetry()
        self._check_recipes()
        self._check_writes()
        return self

    def _check_overlap(self) -> None:
        taken: dict[tuple[Table, tuple[int, ...], int], str] = {}
        for name, point in self.points.items():
            for address in range(point.address, point.address + point.count):
                other = taken.setdefault((point.table, tuple(point.model), address), name)
                if other != name and not _share_word(self.points[other], point):
                    raise ValueError(
                        f"points {other} and {name} overlap at {point.table} {address}; move one, or give "
                        "both disjoint `mask` or `bit`"
                    )

    def _check_names(self) -> None:
        named: list[tuple[str, str | None]] = [
            ("heartbeat", self.heartbeat),
            ("measured_power", self.measured_power),
            ("alarm_point", self.alarm_point),
        ]
        named += [(f"identity[{i}].point", entry.point) for i, entry in enumerate(self.identity)]
        named += [(f"write_only[{i}]", name) for i, name in enumerate(self.write_only)]
        if self.local_mode:
            named.append(("local_mode.point", self.local_mode.point))
        if self.verify:
            named.append(("verify.point", self.verify.point))
        if self.watchdog:
            named.append(("watchdog.point", self.watchdog.point))
            named.append(("watchdog.timeout_point", self.watchdog.timeout_point))
            named.append(("watchdog.remaining_point", self.watchdog.remaining_point))
        for where, name in named:
            if name is not None:
                self._known(name, where)
        if self.verify and self.verify.point in self.write_only:
            raise ValueError(f"verify.point: {self.verify.point} is in write_only, so it cannot be read back")

    def _check_companions(self) -> None:
        for name, point in self.points.items():
            if point.scale_factor is not None:
                factor = self._known(point.scale_factor, f"points.{name}.scale_factor")
                plain = factor.encoding.is_plain and not factor.is_scaled
                if factor.type is not DataType.INT16 or not plain:
                    raise ValueError(
                        f"points.{name}.scale_factor: {point.scale_factor} must be a plain int16, "
                        "the power of ten"
                    )
            if point.base is not None and self._known(point.base, f"points.{name}.base").base is not None:
                raise ValueError(f"points.{name}.base: {point.base} has a base itself")

    def _check_telemetry(self) -> None:
        blocks = self.telemetry.blocks
        shown = ", ".join(
            f"{block.table} {block.address} to {block.address + block.count - 1}" for block in blocks
        )
        for name in self.telemetry.points:
            self._known(name, "telemetry.points")
            for needed in (name, *self.companions(name)):
                point = self.points[needed]
                if not any(block.holds(point) for block in blocks):
                    last = point.address + point.count - 1
                    raise ValueError(
                        f"telemetry.points: {needed} ({point.table} {point.address} to {last}) lies outside "
                        f"the block {shown}; one sample is one read, so enlarge `telemetry.count`, drop the "
                        "point, or name the block in `telemetry.more`"
                    )
        for where, name in (("heartbeat", self.heartbeat), ("measured_power", self.measured_power)):
            if name not in self.telemetry.points:
                raise ValueError(
                    f"{where}: {name} must be one of telemetry.points, to be read in each sample"
                )

    def _check_recipes(self) -> None:
        if self.device_type == "bess":
            for needed in ("zero_power", "set_power"):
                if needed not in self.recipes:
                    raise ValueError(f"recipes: a bess profile needs a `{needed}` recipe")
            if self.verify is None or self.limits is None:
                raise ValueError("a bess profile needs `verify` (the set-point's read-back) and `limits`")
        if (
            self.watchdog
            and self.watchdog.fallback in ("hold_last", "autonomous")
            and "stop" not in self.recipes
        ):
            raise ValueError(f"recipes: fall-back {self.watchdog.fallback} makes a `stop` recipe mandatory")
        for recipe, steps in self.recipes.items():
            if not steps:
                raise ValueError(f"recipes.{recipe}: at least one step is needed")
            for number, step in enumerate(steps):
                self._check_step(recipe, f"recipes.{recipe}[{number}]", step)
        if self.recipes and (self.on_partial == "set_power" or self.on_partial not in self.recipes):
            raise ValueError(f"on_partial: {self.on_partial} is not a recipe here that needs no argument")

    def _check_step(self, recipe: str, where: str, step: Step) -> None:
        point = self._known(step.point, where)
        if not point.is_writable:
            raise ValueError(
                f"{where}: {step.point} is not a whole holding register, so it cannot be written"
            )
        if isinstance(step.value, str):
            if recipe != "set_power" or step.value != "$power_kw":
                raise ValueError(
                    f"{where}: {step.value} is unknown; set_power has $power_kw, others no arguments"
                )
            return
        if point.is_scaled:
            # What it is on the wire, only the device's factor tells.
            return
        try:
            encode(step.value, point.encoding)
        except CodecError as error:
            raise ValueError(f"{where}: {error}") from None

    def _check_writes(self) -> None:
        for recipe in ("set_power", "zero_power"):
            steps = self.recipes.get(recipe, [])
            for number, step in enumerate(steps):
                point = self.points[step.point]
                if point.storage == "flash" and not self.min_write_interval_s:
                    raise ValueError(
                        f"recipes.{recipe}: {step.point} lies in flash and is written with each set-point, "
                        "so min_write_interval_s is needed"
                    )
                if self.atomic or point.count == 1:
                    continue
                # A device that may take half of a value must not act on it before it is whole.
                around = {before.point for before in steps[:number]} & {
                    after.point for after in steps[number + 1 :]
                }
                if not around:
                    raise ValueError(
                        f"recipes.{recipe}: without `atomic`, {step.point} takes several registers, so a "
                        "step before it must disable and one after it must enable the same point"
                    )

    def companions(self, name: str) -> list[str]:
        """Return the points that the value of `name` needs: scale factor, base, the base's factor."""
        point = self.points[name]
        found = [point.scale_factor, point.base]
        if point.base is not None:
            found.append(self.points[point.base].scale_factor)
        return [entry for entry in found if entry is not None]

    def _known(self, name: str, where: str) -> Point:
        if name not in self.points:
            raise ValueError(f"{where}: no point is called {name!r}; points are {', '.join(self.points)}")
        return self.points[name]


def _share_word(one: Point, other: Point) -> bool:
    """True when both are fields of the same word and have no bit in common."""
    bits = [
        point.mask if point.mask is not None else (1 << point.bit if point.bit is not None else None)
        for point in (one, other)
    ]
    return bits[0] is not None and bits[1] is not None and bits[0] & bits[1] == 0
