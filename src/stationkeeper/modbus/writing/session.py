"""What all writes of one run to one unit share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from stationkeeper.modbus.errors import ModbusError, RequestError
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.modbus.reading import Connection, Place, Reader, Reading
from stationkeeper.modbus.writing.clock import Clock
from stationkeeper.modbus.writing.evidence import WriteResult
from stationkeeper.modbus.writing.exchange import READ_AGAIN, patiently
from stationkeeper.modbus.writing.request import Plan

BROADCAST = 0


class Gate(Protocol):
    """What stands between a decided write and the wire, and hears of it afterwards."""

    def check(self, plan: Plan, *, towards_zero: bool) -> None:
        """Raise `ModbusError` when the write must not leave. Changes nothing."""
        ...

    def before(self, plan: Plan, *, towards_zero: bool) -> None:
        """Note that the write is about to leave. Raises `ModbusError` when that cannot be noted."""
        ...

    def after(self, result: WriteResult) -> None:
        """Record a write of which at least one request left. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """Times of one device. `settle_s`: its longest response time, waited after a time-out before it is asked.

    `attempts`: how often a write may leave whose fate is unknown, where repeating it does nothing new.
    """

    busy_timeout_s: float = 5.0
    settle_s: float = 2.0
    attempts: int = 2

    def __post_init__(self) -> None:
        for name in ("busy_timeout_s", "settle_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise RequestError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.attempts < 1:
            raise RequestError(f"write_attempts must be at least 1, not {self.attempts}")


@dataclass(slots=True)
class Session:
    """One unit behind one connection. With `dry_run` nothing is written."""

    client: Connection
    unit: int
    gate: Gate
    clock: Clock = field(default_factory=Clock)
    patience: Patience = field(default_factory=Patience)
    dry_run: bool = False
    reader: Reader = field(init=False)

    def __post_init__(self) -> None:
        self.reader = Reader(self.client, self.unit)

    async def read(self, place: Place) -> Reading:
        """Read one place, waiting while the device is busy. Raises `ModbusError`."""
        return await patiently(
            lambda: self.reader.read(place), self.clock, self.patience.busy_timeout_s, again=READ_AGAIN
        )

    async def look(self, place: Place) -> Reading:
        """Read before a write: a failure means that nothing was written. Raises `ModbusError`."""
        try:
            return await self.read(place)
        except ModbusError as error:
            # A mismatched answer is `unknown` for a write; here none has left yet.
            outcome = Outcome.UNREACHABLE if error.outcome is Outcome.UNKNOWN else error.outcome
            message = f"nothing was written, {place.name} cannot be read: {error.message}"
            raise ModbusError(outcome, message) from None
