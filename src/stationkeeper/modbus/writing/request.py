"""What a write is asked to do, and its plan: the exact words, or an error before any socket is opened."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from stationkeeper.modbus.client import Table
from stationkeeper.modbus.codec import CodecError, DataType, Number, Rounding, decode, encode
from stationkeeper.modbus.errors import RequestError
from stationkeeper.modbus.reading import Place, plain
from stationkeeper.modbus.writing.interlocks import Interlock

Semantic = Literal["level", "refresh", "pulse"]
Storage = Literal["ram", "flash", "unknown"]
Safety = Literal["never", "towards_zero", "always"]

_COIL_FUNCTIONS = (5, 15)
_REGISTER_FUNCTIONS = (6, 16)
MASK_WRITE = 22


@dataclass(frozen=True, slots=True)
class Verify:
    """How a write is proven.

    `register` reads the written register back, `readback` another one (`place`), `none` proves nothing.
    `value` is what must be read back where that is not the written value. `tolerance` None is half a step
    of the register. The value must be matched in `samples` reads in a row, `interval_s` apart, within
    `window_s`, and then stay for `hold_s`, which is at least two cycles of any other master.
    """

    mode: Literal["register", "readback", "none"] = "register"
    place: Place | None = None
    value: Any = None
    tolerance: Any = None
    window_s: float = 5.0
    interval_s: float = 0.5
    samples: int = 2
    hold_s: float = 2.0
    other_master_cycle_s: float = 1.0

    def __post_init__(self) -> None:
        for name in ("window_s", "interval_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise RequestError(f"verify.{name} must be above 0, not {getattr(self, name)}")
        for name in ("hold_s", "other_master_cycle_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise RequestError(f"verify.{name} must be 0 or more, not {getattr(self, name)}")
        if self.samples < 1:
            raise RequestError(f"verify.samples must be at least 1, not {self.samples}")
        if self.mode != "none" and self.hold_s < 2 * self.other_master_cycle_s:
            raise RequestError(
                f"verify.hold_s {self.hold_s:g} is shorter than two cycles of another master "
                f"({self.other_master_cycle_s:g} s each), so its writes would not be seen; raise it, or set "
                "verify.other_master_cycle_s to the cycle of the slowest other master (0 where there is none)"
            )
        if (self.mode == "readback") != (self.place is not None):
            raise RequestError("verify.mode readback needs the register to read, the other modes none")


@dataclass(frozen=True, slots=True)
class Request:
    """One write: the value in engineering units, where it goes, its bounds and its proof.

    `write_only`: the register cannot be read. `atomic`: the device takes all words of a value at once.
    `safety`: whether zero, or less of the same sign, is the safe state of this register. `in_sequence`: the
    write stands between others of a recipe.
    """

    place: Place
    value: Any
    minimum: Any = None
    maximum: Any = None
    max_step: Any = None
    rounding: Rounding = "error"
    expect: Any = None
    semantic: Semantic = "level"
    function: int | None = None
    atomic: bool = True
    write_only: bool = False
    storage: Storage = "unknown"
    min_write_interval_s: float = 0.0
    safety: Safety = "never"
    in_sequence: bool = False
    interlocks: tuple[Interlock, ...] = ()
    verify: Verify = field(default_factory=Verify)


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that can be carried out: `words` as on the wire, for a field only its own bits.

    `value` is what those words mean, `wanted` what the proof must read, within `tolerance`.
    """

    request: Request
    value: Decimal
    words: tuple[int, ...]
    wanted: Decimal
    tolerance: Decimal
    half_step: Decimal
    expect: Decimal | None
    max_step: Decimal | None

    @property
    def place(self) -> Place:
        """Where the value goes."""
        return self.request.place

    @property
    def is_idempotent(self) -> bool:
        """True when a second write of the same does nothing new."""
        return self.request.semantic != "pulse"

    @property
    def masks_in_device(self) -> bool:
        """True when the device itself changes only the bits of the field."""
        return self.request.function == MASK_WRITE

    def merged(self, current: int) -> int:
        """Return the register with the field's bits replaced."""
        return (current & ~self.place.field_bits & 0xFFFF) | self.words[0]

    def is_towards_zero(self, before: Decimal | None) -> bool:
        """True for a write that can only make the device safer."""
        if self.request.safety != "towards_zero":
            return self.request.safety == "always"
        if self.value == 0:
            return True
        return before is not None and before * self.value > 0 and abs(self.value) <= abs(before)


def check(request: Request) -> Decimal:
    """Return the value. Raises `RequestError` for what is wrong whatever the register's scale is."""
    place = request.place
    if place.table not in (Table.COIL, Table.HOLDING):
        raise RequestError(f"{place.name}: {place.table} cannot be written; write a coil or holding register")
    _check_function(request)
    _check_semantic(request)
    value = number(request.value, place.name, bit=place.encoding.type is DataType.BIT)
    _check_bounds(request, value)
    return value


def plan(request: Request) -> Plan:
    """Return the plan. Raises `RequestError` for a write that is wrong in itself."""
    place = request.place
    value = check(request)
    sent = _as_held(place, value, request.rounding)
    _check_bounds(request, sent)
    verify = request.verify
    read_back = verify.place or place
    wanted = value if verify.value is None else number(verify.value, "verify.value", bit=True)
    tolerance = _optional(verify.tolerance, "verify.tolerance")
    if tolerance is not None and tolerance < 0:
        raise RequestError(f"verify.tolerance must be 0 or more, not {tolerance}")
    half_step = _half_step(place)
    max_step = _optional(request.max_step, "max_step")
    if max_step is not None and max_step <= 0:
        raise RequestError(f"max_step must be above 0, not {max_step}")
    return Plan(
        request,
        sent,
        tuple(encode(value, place.encoding, request.rounding)),
        _as_held(read_back, wanted, "nearest"),
        _half_step(read_back) if tolerance is None else tolerance,
        half_step,
        None if request.expect is None else _as_held(place, number(request.expect, "expect", bit=True)),
        max_step,
    )


def number(value: Any, name: str, *, bit: bool = False) -> Decimal:
    """Return a finite number as an exact decimal, from a number or its text.

    A bool is a number only where a `bit` is meant. Raises `RequestError`.
    """
    if isinstance(value, bool):
        if not bit:
            raise RequestError(f"{name}: {value} is not a number; write {int(value)} if you mean that")
        return Decimal(int(value))
    try:
        # repr gives the shortest decimal that means this float: 0.3 stays 0.3.
        result = Decimal(repr(value) if isinstance(value, float) else value)
    except (InvalidOperation, TypeError, ValueError):
        raise RequestError(f"{name}: {value!r} is not a number") from None
    if not result.is_finite():
        raise RequestError(f"{name}: {value} is not a finite number")
    return result


def _optional(value: Number | str | None, name: str) -> Decimal | None:
    return None if value is None else number(value, name, bit=True)


def _as_held(place: Place, value: Decimal, rounding: Rounding = "nearest") -> Decimal:
    """Return what the register holds and reads as for a value: its nearest step, or its nearest float."""
    try:
        held = decode(encode(value, place.encoding, rounding), place.encoding)
    except CodecError as error:
        raise RequestError(f"{place.name}: {error}") from None
    if held is None:
        raise RequestError(f"{place.name}: {plain(value)} would read back as missing")
    return number(held, place.name)


def _half_step(place: Place) -> Decimal:
    encoding = place.encoding
    return Decimal(0) if encoding.type.is_float else abs(encoding.scale) / 2


def _check_bounds(request: Request, value: Decimal) -> None:
    minimum, maximum = _optional(request.minimum, "min"), _optional(request.maximum, "max")
    if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        low = "any" if minimum is None else plain(minimum)
        high = "any" if maximum is None else plain(maximum)
        raise RequestError(
            f"{request.place.name}: {plain(value)} is out of bounds ({low} to {high} {request.place.unit})"
        )


def _check_function(request: Request) -> None:
    place, function = request.place, request.function
    if place.table is Table.COIL:
        allowed: tuple[int, ...] = _COIL_FUNCTIONS
    elif place.is_field:
        allowed = (*_REGISTER_FUNCTIONS, MASK_WRITE)
    elif place.count > 1:
        # Function 6 would tear the value: the device could act on its first half.
        allowed = (16,)
    else:
        allowed = _REGISTER_FUNCTIONS
    if function is not None and function not in allowed:
        names = " or ".join(map(str, allowed))
        raise RequestError(
            f"{place.name}: function {function} does not write this as a whole; use auto or {names}"
        )
    if place.count > 1 and not request.atomic and not request.in_sequence:
        raise RequestError(
            f"{place.name}: this device (atomic: false) does not take a value of {place.count} registers at "
            "once; write it by a recipe or group that disables, writes and enables again"
        )


def _check_semantic(request: Request) -> None:
    name, verify = request.place.name, request.verify
    if request.write_only and verify.mode == "register":
        raise RequestError(
            f"{name} is write-only: it cannot be read back; set verify.mode to readback with the register "
            "that shows its effect, or to none (which proves nothing)"
        )
    if request.write_only and verify.mode == "none" and request.semantic == "level":
        raise RequestError(
            f"{name} is write-only, so its level cannot be compared; set semantic to refresh (may be "
            "written again) or pulse (must not)"
        )
    if request.write_only and request.expect is not None:
        raise RequestError(f"{name} is write-only: expect needs a register that can be read")
    if request.write_only and request.place.is_field and request.function != MASK_WRITE:
        raise RequestError(f"{name} is write-only: some bits of it can only be written by function 22")
    if request.semantic == "pulse" and verify.mode == "register" and verify.value is None:
        raise RequestError(
            f"{name} is a pulse and reads back as something else; name that in verify.value, verify a "
            "status register with verify.mode readback, or set verify.mode to none"
        )
