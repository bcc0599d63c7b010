"""A simulated device behind its registers: the profile says which value lies where. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Literal, Protocol

from stationkeeper.modbus.client import Table
from stationkeeper.modbus.codec import CodecError, Encoding, decode, encode
from stationkeeper.profiles.schema import Profile
from stationkeeper.simulator.exceptions import (
    ILLEGAL_ADDRESS,
    ILLEGAL_VALUE,
    DeviceException,
    WriteRefusedError,
)
from stationkeeper.simulator.faults import Fault
from stationkeeper.simulator.registers import counter_size, sentinel_words
from stationkeeper.simulator.roles import greatest, roles_of, shown
from stationkeeper.simulator.sunspec import factors, lay_out

Values = dict[str, float | None]
Changes = list[tuple[str, float]]

# What a register without a point reads as, inside a telemetry block: SunSpec's "not implemented".
_GAP = 0xFFFF
# SunSpec's range of scale factors.
_LARGEST_EXPONENT = 10


class Source(Protocol):
    """The physics behind a device."""

    def values(self) -> Mapping[str, float]:
        """Return the values by name of quantity."""

    def check(self, name: str, value: float) -> None:
        """Raise `WriteRefusedError` unless the value would be accepted."""

    def write(self, name: str, value: float) -> None:
        """Take a value that was checked."""

    def heard(self, what: Literal["message", "write", "feed"]) -> None:
        """Know that a controller lives: it sent any message, any write, or wrote the watchdog's register."""

    def reboot(self) -> None:
        """Forget every command."""


class SimulatedDevice:
    """The registers of one unit.

    The heartbeat counts answers: each answered read that contains it holds the next number, so every
    telemetry answer that was ever served can be told from all others. Reads are a snapshot of one
    instant; a write is taken as a whole or refused as a whole, and never half of a 32-bit value.
    Points that the physics do not know are registers that keep what is written, from `values` on. What is
    not there starts at 0; at the rating, for a point that percents refer to; at what fits the rating, for
    a scale factor. Raises `ValueError` when `values` names a point that has no value of its own.
    """

    def __init__(
        self,
        name: str,
        profile: Profile,
        source: Source,
        heartbeat: int = 0,
        values: Mapping[str, float] | None = None,
    ) -> None:
        self.name = name
        self.profile, self._fixed = lay_out(profile)
        self.source = source
        self.heartbeat = heartbeat
        # What the server knows: the faults that this unit has now, and what to do in each step.
        self.states: Callable[[], Sequence[Fault]] = tuple
        self.on_step: Callable[[float], None] = lambda _dt_s: None
        self._roles = roles_of(self.profile, source.values())
        self._initial = self._initial_values(values or {})
        self._registers = dict(self._initial)
        self._later: list[tuple[float, Changes]] = []
        self._time_s = 0.0
        self._places: dict[tuple[Table, int], list[str]] = {}
        for block in self.profile.telemetry.blocks:
            for address in range(block.address, block.address + block.count):
                self._places[(block.table, address)] = []
        self._places |= {(Table.HOLDING, address): [] for address in self._fixed}
        for point_name, point in self.profile.points.items():
            for address in range(point.address, point.address + point.count):
                self._places.setdefault((point.table, address), []).append(point_name)
        self._switch()

    @property
    def command_point(self) -> str | None:
        """The point that takes the power set-point."""
        return self._roles.command

    def read(self, table: Table, address: int, count: int) -> list[int]:
        """Return registers or bits from one snapshot. Raises `DeviceException` for an unmapped address."""
        names = self._names(table, address, count)
        if any(name in self.profile.write_only for name in names):
            raise DeviceException(ILLEGAL_ADDRESS)
        return self._words(table, address, count, names)

    def held(self, table: Table, address: int, count: int) -> list[int]:
        """Return what the registers hold, the write-only ones too."""
        return self._words(table, address, count, self._names(table, address, count))

    def write(self, table: Table, address: int, words: Sequence[int]) -> None:
        """Take registers or coils, all or none. Raises `DeviceException` 2 or 3."""
        self.apply(self.changes(table, address, words))

    def changes(self, table: Table, address: int, words: Sequence[int], *, check: bool = True) -> Changes:
        """Return the points and values of a write, without taking it. Raises `DeviceException` 2 or 3."""
        changes: Changes = []
        seen = self._seen()
        for name in self._names(table, address, len(words), gaps=False):
            point = self.profile.points[name]
            first = point.address - address
            if first < 0 or first + point.count > len(words) or name in self._roles.read_only:
                raise DeviceException(ILLEGAL_VALUE)
            try:
                value = _number(decode(words[first : first + point.count], self._encoding(name, seen)))
                quantity = self._roles.quantities.get(name)
                if quantity and check:
                    self.source.check(quantity, value)
            except (CodecError, WriteRefusedError):
                raise DeviceException(ILLEGAL_VALUE) from None
            changes.append((name, value))
        return changes

    def apply(self, changes: Changes) -> None:
        """Take what `changes` has returned."""
        flipped = {fault.point for fault in self.states() if fault.kind == "sign_flip"}
        for name, value in changes:
            quantity = self._roles.quantities.get(name)
            if quantity is None:
                self._registers[name] = value
            else:
                self.source.write(quantity, -value if name in flipped else value)
            if (
                self.profile.watchdog
                and name == self.profile.watchdog.point
                and quantity != "controller_heartbeat"
            ):
                self.source.heard("feed")
        if any(name in self._roles.switches or name in self._roles.enables for name, _ in changes):
            self._switch()

    def apply_later(self, seconds: float, changes: Changes) -> None:
        """Take changes after `seconds` of the physics' time."""
        self._later.append((self._time_s + seconds, changes))

    def step(self, dt_s: float) -> None:
        """Let `dt_s` seconds pass; the physics are stepped by their owner, afterwards."""
        self._time_s += dt_s
        due = [changes for at, changes in self._later if at <= self._time_s]
        self._later = [entry for entry in self._later if entry[0] > self._time_s]
        for changes in due:
            self.apply(changes)
        self.on_step(dt_s)

    def reboot(self) -> None:
        """Forget modes and set-points; what lies in flash stays, and the heartbeat goes on counting."""
        flash = {name for name, point in self.profile.points.items() if point.storage == "flash"}
        self._registers |= {name: value for name, value in self._initial.items() if name not in flash}
        self._later.clear()
        before = self.source.values()
        self.source.reboot()
        for name, quantity in self._roles.quantities.items():
            if name in flash and name not in self._roles.read_only:
                self.source.write(quantity, before[quantity])
        self._switch()

    def set_power(self, power_kw: float) -> list[tuple[int, list[int]]]:
        """Return address and words of each write by which a master sets a power."""
        seen = self._seen()
        writes = []
        for step in self.profile.recipes["set_power"]:
            value = power_kw if isinstance(step.value, str) else step.value
            words = encode(value, self._encoding(step.point, seen), "nearest")
            writes.append((self.profile.points[step.point].address, words))
        return writes

    def _initial_values(self, values: Mapping[str, float]) -> dict[str, float]:
        own = [
            name
            for name in self.profile.points
            if name not in self._roles.quantities and name != self.profile.heartbeat
        ]
        for name in values:
            if name not in own:
                raise ValueError(
                    f"values: {name!r} is no point of profile {self.profile.name} that has a value of "
                    f"its own; those are {', '.join(own) or 'none'} (the others come from the physics)"
                )
        first = dict.fromkeys(own, 0.0)
        most = greatest(self.profile, self._roles, self.source.values())
        bases = {point.base for point in self.profile.points.values() if point.base}
        first |= {name: most[name] for name in own if name in bases}
        first |= factors(self.profile, most | dict(values))
        for name, stop in self._roles.switches.items():
            first[name] = self._roles.starts.get(name, float(stop == 0))
        return first | self._roles.constants | dict(values)

    def _switch(self) -> None:
        """Tell the physics what the operating and enabling registers say together."""
        roles, registers = self._roles, self._registers
        if roles.switches:
            stopped = any(registers[name] == value for name, value in roles.switches.items())
            self.source.write("operating_command", 0 if stopped else 1)
        if roles.enables:
            self.source.write("enabled", all(registers[name] == on for name, on in roles.enables.items()))

    def _words(self, table: Table, address: int, count: int, names: Sequence[str]) -> list[int]:
        if self.profile.heartbeat in names and not any(
            fault.kind == "heartbeat_freeze" for fault in self.states()
        ):
            size = counter_size(self.profile.points[self.profile.heartbeat])
            self.heartbeat = (self.heartbeat + 1) % size
        values = self._seen()
        words = [
            0 if self._places[(table, place)] else self._fixed.get(place, _GAP)
            for place in range(address, address + count)
        ]
        for name in names:
            point = self.profile.points[name]
            for offset, word in enumerate(self._encoded(name, values)):
                place = point.address + offset - address
                if 0 <= place < count:
                    words[place] |= word
        return words

    def _seen(self) -> Values:
        """Return all values as this device shows them now."""
        values: Values = {**self._registers, **shown(self._roles, self.source.values())}
        if self.profile.heartbeat:
            values[self.profile.heartbeat] = self.heartbeat
        for fault in self.states():
            point = fault.point or self.profile.measured_power
            if fault.kind == "sign_flip":
                values[point] = -(values[point] or 0)
            elif fault.kind == "sentinel":
                values[point] = None
            elif fault.kind in ("hold_value", "scale_factor_change"):
                values[point] = fault.value
            elif fault.kind == "local_mode" and self.profile.local_mode:
                values[self.profile.local_mode.point] = self.profile.local_mode.equals
        return values

    def _encoding(self, name: str, values: Values) -> Encoding:
        """Return a point's encoding with the scale that the device has now; without one, `CodecError`."""
        point = self.profile.points[name]
        scale = point.scale
        if point.scale_factor is not None:
            exponent = values[point.scale_factor]
            if exponent is None or abs(exponent) > _LARGEST_EXPONENT:
                raise CodecError(f"{name} has no scale factor")
            scale *= Decimal(10) ** int(exponent)
        if point.base is not None:
            scale *= Decimal(str(values[point.base] or 0))
        return point.encoding if scale == point.scale else replace(point.encoding, scale=scale)

    def _encoded(self, name: str, values: Values) -> list[int]:
        value = values[name]
        try:
            if value is not None:
                return encode(value, self._encoding(name, values), "nearest")
        except CodecError:
            pass  # A value that its register cannot hold is one that the device cannot say.
        return sentinel_words(self.profile.points[name])

    def _names(self, table: Table, address: int, count: int, *, gaps: bool = True) -> list[str]:
        """Return the points that lie in a range, in address order, each once."""
        names: dict[str, None] = {}
        for place in range(address, address + count):
            found = self._places.get((table, place))
            if found is None or not (found or gaps):
                raise DeviceException(ILLEGAL_ADDRESS)
            names.update(dict.fromkeys(found))
        return list(names)


def _number(value: object) -> float:
    if value is None:
        raise WriteRefusedError("the register's value for 'not implemented' is no command")
    return float(str(value))
