"""One simulated battery and its meter for tests, and a bare client that takes any bytes."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from stationkeeper.simulator.config import SimulatorConfig, Station
from stationkeeper.simulator.server import SimulatorServer

READ_SETPOINT = "0400040002"
READ_POWER = "0400020002"
READ_COMMAND = "0300000002"


def power(kilowatts: float) -> str:
    """Return the PDU that sets a power on the generic battery."""
    return "1000000002" + "04" + struct.pack(">i", round(kilowatts * 1000)).hex()


def station(**battery: Any) -> Station:
    """Return a generic battery (unit 1, watchdog off) with its meter (unit 2)."""
    devices = [
        {
            "unit": 1,
            "name": "b",
            "profile": "generic_battery",
            "watchdog": {"timeout_s": 0},
            "ramp_kw_per_s": 1000,
        }
        | battery,
        {"unit": 2, "name": "m", "profile": "generic_meter", "meter_of": "b"},
    ]
    listen = {"host": "127.0.0.1", "port": 0}
    return Station(SimulatorConfig.model_validate({"listen": listen, "log": "log", "devices": devices}))


def advance(devices: Station, seconds: float) -> None:
    """Let the physics run, in steps of 0.25 s."""
    for _ in range(round(seconds / 0.25)):
        devices.step(0.25)


def ask(served: SimulatorServer, pdu: str, unit: int = 1) -> str:
    """Return the answer's PDU without any transport."""
    return served.answer("test", unit, bytes.fromhex(pdu)).hex()


def value(served: SimulatorServer, pdu: str, unit: int = 1) -> float:
    """Return the int32, in thousandths, that a read of two registers answers."""
    number: int = struct.unpack(">i", bytes.fromhex(ask(served, pdu, unit))[2:])[0]
    return number / 1000


class Bare:
    """A connection that sends requests in Modbus TCP frames and returns whatever comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Bare:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, transaction: int, pdu: str, unit: int = 1) -> None:
        data = bytes.fromhex(pdu)
        self.writer.write(struct.pack(">HHHB", transaction, 0, len(data) + 1, unit) + data)

    async def answer(self) -> tuple[int, int, str]:
        """Return transaction, unit and PDU of the next answer."""
        transaction, _, length, unit = struct.unpack(">HHHB", await self.reader.readexactly(7))
        return transaction, unit, (await self.reader.readexactly(length - 1)).hex()

    async def ask(self, transaction: int, pdu: str, unit: int = 1) -> tuple[int, int, str]:
        self.send(transaction, pdu, unit)
        return await self.answer()

    async def ended(self) -> bool:
        """Return whether the other side has closed, without another byte."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True


Scenario = Callable[[SimulatorServer, int], Awaitable[None]]


def serve(scenario: Scenario, devices: Station | None = None) -> SimulatorServer:
    """Run a scenario (server, port) against a real server on TCP, and return that, closed."""
    server = SimulatorServer((devices or station()).devices)

    async def main() -> None:
        try:
            await asyncio.wait_for(scenario(server, await server.start("127.0.0.1", 0)), 60)
        finally:
            await server.close()

    asyncio.run(main())
    return server
