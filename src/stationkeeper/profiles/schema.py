"""The schema of a device profile: a device type's contract, validated before anything uses it."""

from __future__ import annotations

from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from stationkeeper.modbus.client import Table
from stationkeeper.modbus.codec import CodecError, DataType, Encoding, Order, encode

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
RecipeName = Literal["zero_power", "stop", "release", "set_power"]


def _exact(value: Any) -> Any:
    # YAML gives a float; its shortest decimal is what the author wrote, its binary value is not.
    return repr(value) if isinstance(value, float) else value


Exact = Annotated[Decimal, BeforeValidator(_exact), Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Point(_Strict):
    """One value in the device's registers: engineering value = raw * scale + offset."""

    table: Table
    address: int = Field(ge=0, le=0xFFFF)
    type: DataType
    scale: Exact = Decimal(1)
    offset: Exact = Decimal(0)
    unit: str = ""
    word_order: Order = "big"
    byte_order: Order = "big"
    bit: int | None = None
    mask: int | None = None
    not_implemented: int | None = None

    @cached_property
    def encoding(self) -> Encoding:
        """The codec's view of this point."""
        return Encoding(
            self.type,
            self.word_order,
            self.byte_order,
            self.scale,
            self.offset,
            self.bit,
            self.mask,
            self.not_implemented,
        )

    @property
    def count(self) -> int:
        """Number of addresses that the point takes."""
        return self.type.words

    @model_validator(mode="after")
    def _makes_sense(self) -> Point:
        try:
            _ = self.encoding
        except CodecError as error:
            raise ValueError(str(error)) from None
        if self.table.is_bits and self.type is not DataType.BIT:
            raise ValueError(f"table {self.table} holds bits, so the type is bit, not {self.type}")
        if self.type is DataType.BIT and not self.table.is_bits and self.bit is None:
            raise ValueError(f"a bit in table {self.table} needs `bit`, its number 0 to 15")
        if self.address + self.count > 0x10000:
            raise ValueError(f"address {self.address} leaves no room for {self.count} registers")
        return self


class Telemetry(_Strict):
    """The block that is one sample: contiguous, so that one request reads all of it at one instant."""

    table: Table
    address: int = Field(ge=0, le=0xFFFF)
    count: int = Field(ge=1, le=125)
    points: list[Name] = Field(min_length=1)


class Step(_Strict):
    """One write of a recipe. `value` is a number, or `$name` for an argument of the recipe."""

    point: Name
    value: Exact | Annotated[str, Field(pattern=r"^\$[a-z][a-z0-9_]*$")]


class Expectation(_Strict):
    """What a register must say for the device to be of this profile."""

    point: Name
    equals: int


class Verify(_Strict):
    """The read-back of the active set-point; `tolerance` in the point's unit."""

    point: Name
    tolerance: Exact = Field(default=Decimal(0), ge=0)


class Watchdog(_Strict):
    """What the device does when its controller falls silent for `timeout_s` seconds."""

    point: Name
    timeout_point: Name | None = None
    timeout_s: int = Field(ge=1)
    fed_by: Literal["any_message", "any_write", "register_write"]
    fallback: Literal["zero", "hold_last", "autonomous", "trip"]


class Limits(_Strict):
    """Bounds that no set-point of this device type may leave."""

    min_power_kw: float = Field(le=0)
    max_power_kw: float = Field(ge=0)
    min_soe_percent: float = Field(default=0, ge=0, le=100)
    max_soe_percent: float = Field(default=100, ge=0, le=100)


class Profile(_Strict):
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
    identity: list[Expectation] = Field(default_factory=list)
    limits: Limits | None = None
    recipes: dict[RecipeName, list[Step]] = Field(default_factory=dict)
    verify: Verify | None = None
    watchdog: Watchdog | None = None
    max_connections: int = Field(default=1, ge=1)
    min_request_gap_ms: int = Field(default=0, ge=0)
    apply_latency_s: float = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _holds_together(self) -> Profile:
        self._check_overlap()
        self._check_names()
        self._check_telemetry()
        self._check_recipes()
        return self

    def _check_overlap(self) -> None:
        taken: dict[tuple[Table, int], str] = {}
        for name, point in self.points.items():
            for address in range(point.address, point.address + point.count):
                other = taken.setdefault((point.table, address), name)
                if other != name and not _share_word(self.points[other], point):
                    raise ValueError(
                        f"points {other} and {name} overlap at {point.table} {address}; move one, or give "
                        "both disjoint `mask` or `bit`"
                    )

    def _check_names(self) -> None:
        named = [("heartbeat", self.heartbeat), ("measured_power", self.measured_power)]
        named += [(f"identity[{i}].point", entry.point) for i, entry in enumerate(self.identity)]
        if self.verify:
            named.append(("verify.point", self.verify.point))
        if self.watchdog:
            named.append(("watchdog.point", self.watchdog.point))
            if self.watchdog.timeout_point:
                named.append(("watchdog.timeout_point", self.watchdog.timeout_point))
        for where, name in named:
            self._known(name, where)

    def _check_telemetry(self) -> None:
        block = self.telemetry
        for name in block.points:
            point = self._known(name, "telemetry.points")
            last = point.address + point.count
            inside = block.address <= point.address and last <= block.address + block.count
            if point.table != block.table or not inside:
                raise ValueError(
                    f"telemetry.points: {name} ({point.table} {point.address} to {last - 1}) lies outside "
                    f"the block {block.table} {block.address} to {block.address + block.count - 1}; one "
                    "sample is one read, so enlarge `telemetry.count` or drop the point"
                )
        for where, name in (("heartbeat", self.heartbeat), ("measured_power", self.measured_power)):
            if name not in block.points:
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

    def _check_step(self, recipe: str, where: str, step: Step) -> None:
        point = self._known(step.point, where)
        if point.table is not Table.HOLDING or point.mask is not None or point.bit is not None:
            raise ValueError(
                f"{where}: {step.point} is not a whole holding register, so it cannot be written"
            )
        if isinstance(step.value, str):
            if recipe != "set_power" or step.value != "$power_kw":
                raise ValueError(
                    f"{where}: {step.value} is unknown; set_power has $power_kw, others no arguments"
                )
            return
        try:
            encode(step.value, point.encoding)
        except CodecError as error:
            raise ValueError(f"{where}: {error}") from None

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
