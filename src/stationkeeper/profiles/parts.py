"""The parts of a profile: points, telemetry block, recipe steps, watchdog, limits."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from stationkeeper.modbus.client import Table
from stationkeeper.modbus.codec import CodecError, DataType, Encoding, Order

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
RecipeName = Literal["zero_power", "stop", "release", "set_power"]


def _exact(value: Any) -> Any:
    # YAML gives a float; its shortest decimal is what the author wrote, its binary value is not.
    return repr(value) if isinstance(value, float) else value


def _several(value: Any) -> Any:
    return [value] if isinstance(value, int) else value


Exact = Annotated[Decimal, BeforeValidator(_exact), Field(allow_inf_nan=False)]
# SunSpec model numbers, the preferred one first; only for models with the same layout.
Models = Annotated[list[Annotated[int, Field(ge=1, le=0xFFFE)]], BeforeValidator(_several)]


class Strict(BaseModel):
    """Base of all parts: unknown keys are refused, and nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Point(Strict):
    """One value in the device's registers: value = raw * 10^scale_factor * base * scale + offset.

    `scale_factor` and `base` name points that are read in the same run as this one. With `model`, `address`
    counts from the first register (ID) of that SunSpec model, and the type's SunSpec value for "not
    implemented" applies. `storage` is the memory behind a register that is written: cyclic writes wear
    out `flash`, and `unknown` may be flash.
    """

    table: Table
    model: Models = Field(default_factory=list)
    address: int = Field(ge=0, le=0xFFFF)
    type: DataType
    scale: Exact = Decimal(1)
    offset: Exact = Decimal(0)
    scale_factor: Name | None = None
    base: Name | None = None
    unit: str = ""
    word_order: Order = "big"
    byte_order: Order = "big"
    bit: int | None = None
    mask: int | None = None
    not_implemented: int | None = None
    storage: Literal["ram", "flash", "unknown"] = "unknown"

    @cached_property
    def encoding(self) -> Encoding:
        """The codec's view of this point, without scale factor and base."""
        sentinel = self.not_implemented
        if sentinel is None and self.model and not self.type.is_float:
            sentinel = sunspec_sentinel(self.type)
        return Encoding(
            self.type,
            self.word_order,
            self.byte_order,
            self.scale,
            self.offset,
            self.bit,
            self.mask,
            sentinel,
        )

    @property
    def count(self) -> int:
        """Number of addresses that the point takes."""
        return self.type.words

    @property
    def is_scaled(self) -> bool:
        """True when its value cannot be told without other points."""
        return self.scale_factor is not None or self.base is not None

    @property
    def is_writable(self) -> bool:
        """True for whole holding registers, the only ones that recipes write."""
        return self.table is Table.HOLDING and self.mask is None and self.bit is None

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
        if self.type is DataType.BIT and self.is_scaled:
            raise ValueError("a bit has neither scale_factor nor base")
        if self.address + self.count > 0x10000:
            raise ValueError(f"address {self.address} leaves no room for {self.count} registers")
        return self


def sunspec_sentinel(kind: DataType) -> int | None:
    """Return the raw value by which SunSpec says "not implemented"; None for a bit."""
    if kind is DataType.BIT:
        return None
    bits = 16 * kind.words
    return 1 << (bits - 1) if kind.is_signed else (1 << bits) - 1


class Block(Strict):
    """Contiguous registers, read in one request; with `model`, `address` counts from that model's ID."""

    table: Table
    model: Models = Field(default_factory=list)
    address: int = Field(ge=0, le=0xFFFF)
    count: int = Field(ge=1, le=125)

    def holds(self, point: Point) -> bool:
        """True when the point lies inside."""
        last = point.address + point.count
        inside = self.address <= point.address and last <= self.address + self.count
        return (point.table, point.model) == (self.table, self.model) and inside


class Telemetry(Block):
    """The registers that are one sample.

    One block, so that one request reads all of it at one instant; `more` is for devices that do not have
    it all in one place, and is read right after it.
    """

    more: list[Block] = Field(default_factory=list)
    points: list[Name] = Field(min_length=1)

    @property
    def blocks(self) -> list[Block]:
        """All blocks in the order in which they are read."""
        return [self, *self.more]


class Step(Strict):
    """One write of a recipe. `value` is a number, or `$name` for an argument of the recipe."""

    point: Name
    value: Exact | Annotated[str, Field(pattern=r"^\$[a-z][a-z0-9_]*$")]


class Expectation(Strict):
    """What a register must say: `identity`, for the device to be of this profile; `local_mode`, for local."""

    point: Name
    equals: int


class Verify(Strict):
    """The read-back of the active set-point; `tolerance` in the point's unit."""

    point: Name
    tolerance: Exact = Field(default=Decimal(0), ge=0)


class Watchdog(Strict):
    """What the device does when its controller falls silent for `timeout_s` seconds.

    `point` takes a counter with each decision; without it the writes of the set-point are all that feeds.
    `measured_fallback_s` is what commissioning measured on `measured_on`: seconds from the last feeding to
    the fall-back. `remaining_point` counts down while the dead-man is armed.
    """

    point: Name | None = None
    timeout_point: Name | None = None
    remaining_point: Name | None = None
    timeout_s: int = Field(ge=1)
    fed_by: Literal["any_message", "any_write", "register_write"]
    fallback: Literal["zero", "hold_last", "autonomous", "trip"]
    measured_fallback_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    measured_on: date | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Watchdog:
        if self.fed_by == "register_write" and self.point is None:
            raise ValueError("fed_by register_write needs `point`, the register that is written")
        if (self.measured_fallback_s is None) != (self.measured_on is None):
            raise ValueError("measured_fallback_s and measured_on go together")
        return self


class Limits(Strict):
    """Bounds that no set-point of this device type may leave."""

    min_power_kw: float = Field(le=0)
    max_power_kw: float = Field(ge=0)
    min_soe_percent: float = Field(default=0, ge=0, le=100)
    max_soe_percent: float = Field(default=100, ge=0, le=100)
