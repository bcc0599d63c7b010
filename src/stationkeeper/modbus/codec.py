"""Register codec: engineering values to 16-bit words and back, in decimal arithmetic.

engineering value = raw value * scale + offset. Pure: no I/O, and every refusal is a `CodecError`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from enum import StrEnum
from typing import Literal

Number = int | float | Decimal
Rounding = Literal["error", "nearest"]
Order = Literal["big", "little"]

# Wide enough for a 64-bit integer times any sensible scale without losing a digit.
_CONTEXT = Context(prec=60)


class CodecError(ValueError):
    """A value that cannot be encoded, words that cannot be decoded, or an encoding that makes no sense."""


class DataType(StrEnum):
    """Type of the raw value in the registers."""

    INT16 = "int16"
    UINT16 = "uint16"
    INT32 = "int32"
    UINT32 = "uint32"
    INT64 = "int64"
    UINT64 = "uint64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    BIT = "bit"

    @property
    def words(self) -> int:
        """Number of 16-bit registers that one value takes."""
        return 1 if self is DataType.BIT else int(self.value.lstrip("uintfloa")) // 16

    @property
    def is_float(self) -> bool:
        """True for IEEE 754 types."""
        return self in (DataType.FLOAT32, DataType.FLOAT64)

    @property
    def is_signed(self) -> bool:
        """True for two's complement integers."""
        return self in (DataType.INT16, DataType.INT32, DataType.INT64)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How one value lies in its registers.

    `word_order` and `byte_order` say which word (of several) and which byte (in each word) comes first.
    `bit` picks one bit of a word (type `bit`), `mask` a field of a `uint16`; both encode to a word that
    has only those bits, and the caller merges it with the rest. `not_implemented` is the raw value by
    which the device says "I do not have this": it decodes to None and is never encoded.
    Raises `CodecError` for a combination that makes no sense.
    """

    type: DataType
    word_order: Order = "big"
    byte_order: Order = "big"
    scale: Decimal = Decimal(1)
    offset: Decimal = Decimal(0)
    bit: int | None = None
    mask: int | None = None
    not_implemented: int | None = None

    def __post_init__(self) -> None:
        if not self.scale.is_finite() or self.scale == 0:
            raise CodecError(f"scale must be a finite number other than 0, not {self.scale}")
        if not self.offset.is_finite():
            raise CodecError(f"offset must be a finite number, not {self.offset}")
        if self.bit is not None and (self.type is not DataType.BIT or not 0 <= self.bit <= 15):
            raise CodecError("bit is 0 to 15 and only for type bit")
        if self.mask is not None and (self.type is not DataType.UINT16 or not 0 < self.mask <= 0xFFFF):
            raise CodecError("mask is 1 to 0xFFFF and only for type uint16")
        if self.type is DataType.BIT and (self.scale != 1 or self.offset != 0):
            raise CodecError("a bit has neither scale nor offset")

    @property
    def is_plain(self) -> bool:
        """True when raw and engineering value are the same number."""
        return self.scale == 1 and self.offset == 0


def encode(value: Number, encoding: Encoding, rounding: Rounding = "error") -> list[int]:
    """Return the words for an engineering value.

    Refuses (`CodecError`) NaN, infinity, a bool as a number, a value out of the type's range, the
    not-implemented value and, unless `rounding` is `nearest`, one that is not a multiple of the scale.
    """
    if encoding.type is DataType.BIT:
        if value not in (0, 1):
            raise CodecError(f"a bit is 0 or 1, not {value!r}")
        return [int(value) << (encoding.bit or 0)]
    raw = _raw(_decimal(value), encoding)
    if encoding.type.is_float:
        return _to_words(_pack_float(raw, value, encoding.type), encoding)
    integer = _integer(raw, value, encoding, rounding)
    if encoding.not_implemented is not None and integer == _as_raw(encoding.not_implemented, encoding.type):
        raise CodecError(
            f"{value} would be sent as {integer}, which means 'not implemented' in this register"
        )
    if encoding.mask is not None:
        shift = _shift(encoding.mask)
        if not 0 <= integer <= encoding.mask >> shift:
            raise CodecError(f"{value} does not fit the mask 0x{encoding.mask:04X}")
        return _to_words((integer << shift).to_bytes(2, "big"), encoding)
    size = encoding.type.words * 2
    try:
        data = integer.to_bytes(size, "big", signed=encoding.type.is_signed)
    except OverflowError:
        raise CodecError(f"{value} is raw {integer}, out of the range of {encoding.type}") from None
    return _to_words(data, encoding)


def decode(words: Sequence[int], encoding: Encoding) -> Decimal | int | float | None:
    """Return the engineering value of exactly the words of one value, or None for "not implemented".

    Integers come back as int, or as Decimal where scale or offset apply; float types as float, with NaN
    and infinity as None: a number that is missing is never a 0. Raises `CodecError` for a wrong count.
    """
    if len(words) != encoding.type.words:
        raise CodecError(f"{encoding.type} takes {encoding.type.words} registers, got {len(words)}")
    if any(isinstance(word, bool) or not 0 <= word <= 0xFFFF for word in words):
        raise CodecError(f"not 16-bit register values: {list(words)}")
    if encoding.type is DataType.BIT:
        return words[0] >> (encoding.bit or 0) & 1
    data = _from_words(words, encoding)
    if encoding.type.is_float:
        number: float = struct.unpack(">f" if len(data) == 4 else ">d", data)[0]
        if not math.isfinite(number) or encoding.is_plain:
            return number if math.isfinite(number) else None
        with localcontext(_CONTEXT):
            return float(Decimal(repr(number)) * encoding.scale + encoding.offset)
    raw = int.from_bytes(data, "big", signed=encoding.type.is_signed)
    if encoding.mask is not None:
        raw = (raw & encoding.mask) >> _shift(encoding.mask)
    if encoding.not_implemented is not None and raw == _as_raw(encoding.not_implemented, encoding.type):
        return None
    if encoding.is_plain:
        return raw
    with localcontext(_CONTEXT):
        return raw * encoding.scale + encoding.offset


def _decimal(value: Number) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise CodecError(f"{value!r} is not a number")
    # repr gives the shortest decimal that means this float: 0.3 stays 0.3 and divides by 0.1 to exactly 3.
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite():
        raise CodecError(f"{value} is not a finite number")
    return number


def _raw(value: Decimal, encoding: Encoding) -> Decimal:
    with localcontext(_CONTEXT):
        return (value - encoding.offset) / encoding.scale


def _integer(raw: Decimal, value: Number, encoding: Encoding, rounding: Rounding) -> int:
    # Checked before rounding, because to_integral_value of a huge exponent would build a huge integer.
    if abs(raw) >= 2**65:
        raise CodecError(f"{value} is out of the range of {encoding.type}")
    whole = raw.to_integral_value(rounding=ROUND_HALF_EVEN)
    if rounding == "error":
        with localcontext(_CONTEXT):
            exact = whole * encoding.scale + encoding.offset == _decimal(value)
        if not exact:
            raise CodecError(
                f"{value} is not a multiple of the register's step {encoding.scale} from {encoding.offset}"
            )
    return int(whole)


def _pack_float(raw: Decimal, value: Number, kind: DataType) -> bytes:
    try:
        data = struct.pack(">f" if kind is DataType.FLOAT32 else ">d", float(raw))
    except OverflowError:
        data = b""
    # float() gives infinity for a decimal beyond float64, and struct only refuses beyond float32.
    if not data or not math.isfinite(float(raw)):
        raise CodecError(f"{value} is out of the range of {kind}")
    return data


def _as_raw(sentinel: int, kind: DataType) -> int:
    """Sentinels are written as manuals do, 0x8000 for an int16, so bring them to the type's own sign."""
    bits = kind.words * 16
    return sentinel - (1 << bits) if kind.is_signed and sentinel >= 1 << (bits - 1) else sentinel


def _shift(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _to_words(data: bytes, encoding: Encoding) -> list[int]:
    words = [int.from_bytes(data[i : i + 2], encoding.byte_order) for i in range(0, len(data), 2)]
    return words if encoding.word_order == "big" else words[::-1]


def _from_words(words: Sequence[int], encoding: Encoding) -> bytes:
    ordered = words if encoding.word_order == "big" else list(words)[::-1]
    return b"".join(word.to_bytes(2, encoding.byte_order) for word in ordered)
