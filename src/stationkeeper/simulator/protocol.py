"""Modbus requests: parsed and described; and their answers. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from stationkeeper.modbus.client import Table
from stationkeeper.simulator.exceptions import (
    ILLEGAL_ADDRESS,
    ILLEGAL_FUNCTION,
    ILLEGAL_VALUE,
    DeviceException,
)

READ_FUNCTIONS = (1, 2, 3, 4, 23)
WRITE_FUNCTIONS = (5, 6, 15, 16, 22, 23)

_READ_TABLES = {1: Table.COIL, 2: Table.DISCRETE, 3: Table.HOLDING, 4: Table.INPUT, 23: Table.HOLDING}
_COIL_ON, _COIL_OFF = 0xFF00, 0x0000


@dataclass(frozen=True, slots=True)
class Read:
    """Addresses that a request reads."""

    table: Table
    address: int
    count: int


@dataclass(frozen=True, slots=True)
class Write:
    """Registers or coils that a request writes; `masks` (and, or) instead of `words` for function 22."""

    table: Table
    address: int
    words: tuple[int, ...]
    masks: tuple[int, int] | None = None

    @property
    def count(self) -> int:
        """Number of addresses that are written."""
        return len(self.words) or 1


@dataclass(frozen=True, slots=True)
class Request:
    """A well-formed request; function 23 both reads and writes (the write comes first)."""

    function: int
    read: Read | None = None
    write: Write | None = None

    def touches(self, address: int) -> bool:
        """Return whether one of its addresses is this one."""
        return any(
            part is not None and part.address <= address < part.address + part.count
            for part in (self.read, self.write)
        )

    def described(self) -> dict[str, Any]:
        """Return what the served log says of the request."""
        entry: dict[str, Any] = {}
        if self.write:
            entry = {"address": self.write.address, "written": list(self.write.words)}
            if self.write.masks:
                entry |= {"written": [], "masks": list(self.write.masks)}
        if self.read:
            if self.write:
                entry["written_address"] = self.write.address
            entry |= {"address": self.read.address, "count": self.read.count}
        return entry


def parse(pdu: bytes) -> Request:
    """Return the request in a PDU. Raises `DeviceException` 1, 2 or 3 for what no device would take."""
    function = pdu[0]
    if function in (1, 2, 3, 4):
        return Request(function, read=_read_part(function, *_fields(pdu, 5, ">HH")))
    if function in (5, 6):
        address, value = _fields(pdu, 5, ">HH")
        if function == 5 and value not in (_COIL_ON, _COIL_OFF):
            raise DeviceException(ILLEGAL_VALUE)
        words = (int(value == _COIL_ON),) if function == 5 else (value,)
        return Request(
            function, write=_write_part(Table.COIL if function == 5 else Table.HOLDING, address, words)
        )
    if function in (15, 16):
        address, count, size = _fields(pdu, 6, ">HHB", exact=False)
        if function == 15:
            return Request(function, write=_write_part(Table.COIL, address, _bits(pdu[6:], count, size)))
        return Request(function, write=_write_part(Table.HOLDING, address, _words(pdu[6:], count, size)))
    if function == 22:
        address, and_mask, or_mask = _fields(pdu, 7, ">HHH")
        return Request(function, write=Write(Table.HOLDING, address, (), (and_mask, or_mask)))
    if function == 23:
        address, count, to_address, to_count, size = _fields(pdu, 10, ">HHHHB", exact=False)
        write = _write_part(Table.HOLDING, to_address, _words(pdu[10:], to_count, size))
        return Request(function, _read_part(function, address, count), write)
    raise DeviceException(ILLEGAL_FUNCTION)


def answer(request: Request, pdu: bytes, words: list[int]) -> bytes:
    """Return the answer's PDU; `words` are the registers or bits read."""
    if request.read is None:
        return pdu if request.function == 22 else pdu[:5]
    if not request.read.table.is_bits:
        return struct.pack(f">BB{len(words)}H", request.function, len(words) * 2, *words)
    packed = bytearray((len(words) + 7) // 8)
    for number, bit in enumerate(words):
        packed[number // 8] |= bit << number % 8
    return bytes([request.function, len(packed)]) + bytes(packed)


def _read_part(function: int, address: int, count: int) -> Read:
    table = _READ_TABLES[function]
    _check_range(address, count, 2000 if table.is_bits else 125)
    return Read(table, address, count)


def _write_part(table: Table, address: int, words: tuple[int, ...]) -> Write:
    _check_range(address, len(words), 1968 if table.is_bits else 123)
    return Write(table, address, words)


def _check_range(address: int, count: int, limit: int) -> None:
    if not 1 <= count <= limit:
        raise DeviceException(ILLEGAL_VALUE)
    if address + count > 0x10000:
        raise DeviceException(ILLEGAL_ADDRESS)


def _fields(pdu: bytes, size: int, layout: str, *, exact: bool = True) -> tuple[int, ...]:
    if len(pdu) < size or (exact and len(pdu) != size):
        raise DeviceException(ILLEGAL_VALUE)
    return struct.unpack(layout, pdu[1:size])


def _words(data: bytes, count: int, size: int) -> tuple[int, ...]:
    if size != count * 2 or len(data) != size:
        raise DeviceException(ILLEGAL_VALUE)
    return struct.unpack(f">{count}H", data)


def _bits(data: bytes, count: int, size: int) -> tuple[int, ...]:
    if size != (count + 7) // 8 or len(data) != size:
        raise DeviceException(ILLEGAL_VALUE)
    return tuple(data[number // 8] >> number % 8 & 1 for number in range(count))
