"""Special values of registers: "not implemented", and where a counter begins again. Pure."""

from __future__ import annotations

import math
import struct
from decimal import Decimal

from stationkeeper.modbus.codec import DataType
from stationkeeper.profiles.schema import Point


def largest_raw(point: Point) -> Decimal:
    """Return the largest raw value that this register takes, "not implemented" left out."""
    if point.type.is_float:
        return Decimal("1e30")
    return Decimal(2) ** (point.type.words * 16 - point.type.is_signed) - 2


def counter_size(point: Point) -> int:
    """Return the number of values that a counter in this register has, without "not implemented"."""
    bits = point.type.words * 16
    size: int = 1 << (53 if point.type.is_float else bits - point.type.is_signed)
    return size if point.not_implemented is None else size - 1


def sentinel_words(point: Point) -> list[int]:
    """Return the registers that say "not implemented": the profile's, or SunSpec's for the type."""
    if point.type is DataType.BIT or point.mask is not None:
        return [0]
    if point.type.is_float:
        data = struct.pack(">f" if point.type is DataType.FLOAT32 else ">d", math.nan)
    else:
        size = point.type.words * 2
        sentinel = point.encoding.not_implemented
        if sentinel is None:
            sentinel = 1 << (size * 8 - 1) if point.type.is_signed else (1 << size * 8) - 1
        data = (sentinel % (1 << size * 8)).to_bytes(size, "big")
    ordered = [int.from_bytes(data[i : i + 2], point.byte_order) for i in range(0, len(data), 2)]
    return ordered if point.word_order == "big" else ordered[::-1]
