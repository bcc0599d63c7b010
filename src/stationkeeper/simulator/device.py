"""A simulated device behind its registers: the profile says which value lies where. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from stationkeeper.modbus.client import Table
from stationkeeper.modbus.codec import CodecError, decode, encode
from stationkeeper.profiles.schema import Point, Profile
from stationkeeper.simulator.battery import WriteRefusedError

ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE, TARGET_SILENT = 1, 2, 3, 11

_FIRMWARE_VERSION = 1.0
_COUNTER = 1 << 32


class DeviceException(Exception):  # noqa: N818 - Modbus calls it an exception, and it is an answer, not a fault
    """A Modbus exception answer; `code` is its number."""

    def __init__(self, code: int) -> None:
        super().__init__(f"Modbus exception {code}")
        self.code = code


class Source(Protocol):
    """The physics behind a device."""

    def values(self) -> Mapping[str, float]:
        """Return the values by point name."""

    def check(self, name: str, value: float) -> None:
        """Raise `WriteRefusedError` unless the value would be accepted."""

    def write(self, name: str, value: float) -> None:
        """Take a value that was checked."""


class SimulatedDevice:
    """The registers of one unit.

    The heartbeat counts answers: each answered read that contains it holds the next number, so every
    telemetry answer that was ever served can be told from all others. Reads are a snapshot of one
    instant; a write is taken as a whole or refused as a whole, and never half of a 32-bit value.
    Raises `ValueError` when the profile has a point that this simulation does not know.
    """

    def __init__(self, name: str, profile: Profile, source: Source, heartbeat: int = 0) -> None:
        self.name = name
        self.profile = profile
        self.source = source
        self.heartbeat = heartbeat
        self._constants = {"firmware_version": _FIRMWARE_VERSION}
        self._constants |= {entry.point: float(entry.equals) for entry in profile.identity}
        self._places: dict[tuple[Table, int], list[str]] = {}
        known = {profile.heartbeat, *self._constants, *source.values()}
        for point_name, point in profile.points.items():
            if point_name not in known:
                raise ValueError(
                    f"profile {profile.name}: the simulator has no value for point {point_name!r}"
                )
            for address in range(point.address, point.address + point.count):
                self._places.setdefault((point.table, address), []).append(point_name)

    def read(self, table: Table, address: int, count: int) -> list[int]:
        """Return registers or bits from one snapshot. Raises `DeviceException` for an unmapped address."""
        names = self._names(table, address, count)
        if self.profile.heartbeat in names:
            self.heartbeat = (self.heartbeat + 1) % _COUNTER
        values = {**self.source.values(), **self._constants, self.profile.heartbeat: self.heartbeat}
        words = [0] * count
        for name in names:
            point = self.profile.points[name]
            for offset, word in enumerate(_encode(values[name], point)):
                place = point.address + offset - address
                if 0 <= place < count:
                    words[place] |= word
        return words

    def write(self, table: Table, address: int, words: Sequence[int]) -> None:
        """Take registers or coils, all or none. Raises `DeviceException` 2 or 3."""
        changes: list[tuple[str, float]] = []
        for name in self._names(table, address, len(words)):
            point = self.profile.points[name]
            first = point.address - address
            if first < 0 or first + point.count > len(words):
                raise DeviceException(ILLEGAL_VALUE)
            try:
                value = decode(words[first : first + point.count], point.encoding)
                self.source.check(name, _number(value))
            except (CodecError, WriteRefusedError):
                raise DeviceException(ILLEGAL_VALUE) from None
            changes.append((name, _number(value)))
        for name, number in changes:
            self.source.write(name, number)

    def _names(self, table: Table, address: int, count: int) -> list[str]:
        """Return the points that lie in a range, in address order, each once."""
        names: dict[str, None] = {}
        for place in range(address, address + count):
            found = self._places.get((table, place))
            if found is None:
                raise DeviceException(ILLEGAL_ADDRESS)
            names.update(dict.fromkeys(found))
        return list(names)


def _encode(value: float, point: Point) -> list[int]:
    return encode(value, point.encoding, "nearest")


def _number(value: object) -> float:
    if value is None:
        raise WriteRefusedError("the register's value for 'not implemented' is no command")
    return float(str(value))
