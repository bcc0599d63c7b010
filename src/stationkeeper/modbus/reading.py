"""Where a value lies in a device's registers, and reads of it that a stale answer cannot pass for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from stationkeeper.modbus.client import Table
from stationkeeper.modbus.codec import CodecError, DataType, Encoding, decode
from stationkeeper.modbus.errors import DeviceExceptionError, ModbusError, NoAnswerError, RequestError
from stationkeeper.modbus.outcome import Outcome

_ILLEGAL_ADDRESS, _ILLEGAL_VALUE = 2, 3
# First digit of a classic register reference, like the 4 of 40001.
_REFERENCE_TABLES = {"0": Table.COIL, "1": Table.DISCRETE, "3": Table.INPUT, "4": Table.HOLDING}


class Connection(Protocol):
    """What reads and writes need of a client; `StrictClient` is one."""

    async def read(self, unit: int, table: Table | str, address: int, count: int) -> list[int]:
        """Return registers or bits in one request."""
        ...

    async def write(
        self,
        unit: int,
        address: int,
        words: Sequence[int],
        *,
        function: int | None = None,
        broadcast: bool = False,
    ) -> None:
        """Write holding registers in one request."""
        ...

    async def write_coils(
        self, unit: int, address: int, bits: Sequence[int], *, function: int | None = None
    ) -> None:
        """Write coils in one request."""
        ...

    async def mask_write(self, unit: int, address: int, and_mask: int, or_mask: int) -> None:
        """Change bits of one holding register in the device itself."""
        ...

    async def close(self) -> None:
        """Close the connection; a later request opens a new one."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """One value in a device's registers. `name` is what messages call it, `unit` its engineering unit."""

    name: str
    table: Table
    address: int
    encoding: Encoding
    unit: str = ""

    def __post_init__(self) -> None:
        is_bit = self.encoding.type is DataType.BIT
        if self.table.is_bits and not is_bit:
            raise RequestError(f"{self.name}: table {self.table} holds bits, so the type is bit")
        if not self.table.is_bits and is_bit and self.encoding.bit is None:
            raise RequestError(f"{self.name}: a bit of table {self.table} needs `bit`, its number 0 to 15")
        if not 0 <= self.address <= 0x10000 - self.count:
            raise RequestError(
                f"{self.name}: addresses {self.address} to {self.address + self.count - 1} are not within "
                "0 to 65535 (an address counts from 0, as in the PDU; give 40001 and the like as `reference`)"
            )

    @property
    def count(self) -> int:
        """Number of addresses that the value takes."""
        return self.encoding.type.words

    @property
    def is_field(self) -> bool:
        """True for some bits of a register, which share it with others."""
        return not self.table.is_bits and (self.encoding.bit is not None or self.encoding.mask is not None)

    @property
    def field_bits(self) -> int:
        """The bits of the register, as on the wire, that belong to the value."""
        if self.encoding.bit is not None:
            return 1 << self.encoding.bit
        mask = self.encoding.mask if self.encoding.mask is not None else 0xFFFF
        return int.from_bytes(mask.to_bytes(2, "big"), self.encoding.byte_order)

    @property
    def where(self) -> str:
        """Table and address, like `holding 40`."""
        return f"{self.table} {self.address}"

    def show(self, value: object) -> str:
        """Return a value with its unit."""
        return f"{plain(value)} {self.unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Reading:
    """The whole registers of one value, as they were on the wire."""

    place: Place
    words: tuple[int, ...]

    @property
    def value(self) -> Decimal | int | float | None:
        """The engineering value, None where the device says that it has none."""
        return decode(self.words, self.place.encoding)

    @property
    def registers(self) -> dict[str, str]:
        """Each register with its raw content in hexadecimal."""
        place = self.place
        return {
            f"{place.table} {place.address + number}": hexadecimal([word])
            for number, word in enumerate(self.words)
        }

    def __str__(self) -> str:
        return f"{self.place.show(self.value)} ({hexadecimal(self.words)})"


class Reader:
    """Reads places of one unit, each with another count of registers than the read before.

    A stale answer to the earlier read then has the wrong length and is refused. Where the device has no
    neighbouring register to read along, the connection is opened anew instead.
    """

    def __init__(self, client: Connection, unit: int) -> None:
        self._client = client
        self._unit = unit
        self._last: tuple[bool, int] | None = None
        self._refused: set[tuple[Table, int, int]] = set()

    async def read(self, place: Place) -> Reading:
        """Return one value. Raises `ModbusError`."""
        for address, count in _spans(place):
            size = _answer_size(place.table, count)
            if size == self._last or (place.table, address, count) in self._refused:
                continue
            try:
                return await self._read(place, address, count)
            except (DeviceExceptionError, NoAnswerError) as error:
                # Some devices refuse a read that touches a register that they do not have, some are silent.
                refused = isinstance(error, NoAnswerError) or error.code in (_ILLEGAL_ADDRESS, _ILLEGAL_VALUE)
                if count == place.count or not refused:
                    raise
                self._refused.add((place.table, address, count))
        await self._client.close()
        return await self._read(place, place.address, place.count)

    async def _read(self, place: Place, address: int, count: int) -> Reading:
        # Noted before the request leaves: it is this answer that may come late.
        self._last = _answer_size(place.table, count)
        words = await self._client.read(self._unit, place.table, address, count)
        first = place.address - address
        return Reading(place, tuple(words[first : first + place.count]))


def value_of(reading: Reading | None) -> Decimal | None:
    """Return a reading's value as an exact decimal; None when there is none. Raises `ModbusError`."""
    if reading is None:
        return None
    try:
        value = reading.value
    except CodecError as error:
        raise ModbusError(Outcome.REJECTED, f"{reading.place.name}: {error}") from None
    return None if value is None else Decimal(repr(value) if isinstance(value, float) else value)


def parse_reference(reference: str | int) -> tuple[Table, int]:
    """Return table and 0-based address of a classic reference: 40001 (or 400001) is holding register 0."""
    text = str(reference).strip()
    match = re.fullmatch(r"([0134])(\d{4}|\d{5})", text)
    number = int(match[2]) - 1 if match else -1
    if match is None or not 0 <= number <= 0xFFFF:
        raise RequestError(
            f"reference {reference!r} is not of the form 00001, 10001, 30001 or 40001 (or with six digits); "
            "write it in quotes, or give `table` and the 0-based `address`"
        )
    return _REFERENCE_TABLES[match[1]], number


def hexadecimal(words: Sequence[int]) -> str:
    """Return words as four hexadecimal digits each."""
    return " ".join(f"{word:04X}" for word in words)


def plain(value: object) -> str:
    """Return a number for people: 40, not 40.000; `missing` for None."""
    if value is None:
        return "missing"
    if isinstance(value, float):
        value = Decimal(repr(value))
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return str(value)


def _spans(place: Place) -> list[tuple[int, int]]:
    """Return ranges around a place whose answers differ in length, the exact one first."""
    # Eight bits are one byte of the answer.
    step = 8 if place.table.is_bits else 1
    spans = [(place.address, place.count)]
    if place.address + place.count + step <= 0x10000:
        spans.append((place.address, place.count + step))
    if place.address >= step:
        spans.append((place.address - step, place.count + step))
    return spans


def _answer_size(table: Table, count: int) -> tuple[bool, int]:
    return (table.is_bits, (count + 7) // 8 if table.is_bits else count)
