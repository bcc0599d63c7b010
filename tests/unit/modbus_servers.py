"""Servers for the client's tests: pymodbus's own, and ones that answer whatever a test makes of a request.

The servers of this file share no code with the client: an own CRC, an own idea of where a frame ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import subprocess
import tty
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from pymodbus import datastore
from pymodbus.framer import FramerType
from pymodbus.server import ModbusTcpServer

# Makes the bytes to send of a request; None closes the connection.
Answer = Callable[[bytes], bytes | None]

# The names of pymodbus 3.8 and 3.9, and those of 3.10 and later.
_DeviceContext = getattr(datastore, "ModbusDeviceContext", None) or datastore.ModbusSlaveContext
_DEVICES = "devices" if hasattr(datastore, "ModbusDeviceContext") else "slaves"


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine, which must end within a minute."""
    asyncio.run(asyncio.wait_for(test(), 60))


@contextlib.asynccontextmanager
async def pymodbus_server(framer: FramerType = FramerType.SOCKET) -> AsyncIterator[int]:
    """A server that this repository did not write, with unit 1; yields its port."""
    bits = [False] * 100
    bits[0] = bits[8] = bits[9] = True
    device = _DeviceContext(
        co=datastore.ModbusSequentialDataBlock(1, bits),
        di=datastore.ModbusSequentialDataBlock(1, bits),
        hr=datastore.ModbusSequentialDataBlock(1, list(range(100))),
        ir=datastore.ModbusSequentialDataBlock(1, list(range(1000, 1100))),
    )
    context = datastore.ModbusServerContext(**{_DEVICES: {1: device}}, single=False)
    server = ModbusTcpServer(context, framer=framer, address=("127.0.0.1", 0))
    task = asyncio.create_task(server.serve_forever())
    while not server.transport:
        await asyncio.sleep(0.01)
    try:
        yield server.transport.sockets[0].getsockname()[1]
    finally:
        await server.shutdown()
        await task


@contextlib.asynccontextmanager
async def raw_server(answer: Answer, *, rtu: bool = False) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A TCP server that answers as `answer` says; yields its port and the requests so far."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                requests.append(await (read_rtu(reader) if rtu else _read_tcp(reader)))
                reply = answer(requests[-1])
                if reply is None:
                    break
                writer.write(reply)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], requests
    finally:
        server.close()


@dataclass
class SerialLine:
    """The device's end of a serial line."""

    path: str
    master: int
    requests: list[bytes] = field(default_factory=list)

    def send(self, data: bytes) -> None:
        """Let the device send, asked or not."""
        os.write(self.master, data)


@contextlib.asynccontextmanager
async def serial_line(answer: Answer) -> AsyncIterator[SerialLine]:
    """A pseudo-terminal with an RTU device at its other end, which answers as `answer` says."""
    master, slave = os.openpty()
    tty.setraw(slave)
    line = SerialLine(os.ttyname(slave), master)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    loop.add_reader(master, lambda: reader.feed_data(os.read(master, 4096)))

    async def serve() -> None:
        while True:
            line.requests.append(await read_rtu(reader))
            line.send(answer(line.requests[-1]) or b"")

    task = asyncio.create_task(serve())
    try:
        yield line
    finally:
        loop.remove_reader(master)
        task.cancel()
        # The slave stays open till here: without one, reading the master is an error.
        os.close(slave)
        os.close(master)


@dataclass
class Device:
    """Unit 1 with a hundred of everything; also does what a broadcast says, and then keeps silent."""

    registers: list[int] = field(default_factory=lambda: list(range(100)))
    coils: list[int] = field(default_factory=lambda: [0] * 100)

    def tcp(self, request: bytes) -> bytes:
        """Answer a Modbus TCP frame."""
        pdu = self.pdu(request[7:])
        return request[0:4] + struct.pack(">HB", len(pdu) + 1, request[6]) + pdu if request[6] else b""

    def rtu(self, request: bytes) -> bytes:
        """Answer an RTU frame."""
        assert request[-2:] == crc(request[:-2]), "the client sent a wrong CRC"
        answer = request[:1] + self.pdu(request[1:-2])
        return answer + crc(answer) if request[0] else b""

    def pdu(self, asked: bytes) -> bytes:
        """Do what a PDU asks; return the answer's PDU."""
        function = asked[0]
        address, value = struct.unpack(">HH", asked[1:5])
        if function in (1, 2):
            data = _packed(self.coils[address : address + value])
            return bytes([function, len(data)]) + data
        if function in (3, 4):
            words = self.registers[address : address + value]
            return struct.pack(f">BB{value}H", function, value * 2, *words)
        if function == 5:
            self.coils[address] = int(value == 0xFF00)
        elif function == 6:
            self.registers[address] = value
        elif function == 15:
            self.coils[address : address + value] = [asked[6 + i // 8] >> i % 8 & 1 for i in range(value)]
        elif function == 16:
            self.registers[address : address + value] = struct.unpack(f">{value}H", asked[6:])
        elif function == 22:
            (or_mask,) = struct.unpack(">H", asked[5:7])
            self.registers[address] = (self.registers[address] & value) | (or_mask & ~value & 0xFFFF)
            return asked
        else:
            return bytes([function | 0x80, 1])
        return asked[:5]


def crc(data: bytes) -> bytes:
    """The two CRC bytes of an RTU frame, bit by bit as in the specification."""
    register = 0xFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0xA001 if register & 1 else 0)
    return register.to_bytes(2, "little")


def mbpoll(*arguments: str) -> dict[int, int]:
    """Read with mbpoll, which shares no code with anything here; return value by 0-based address."""
    command = ["mbpoll", "-0", "-1", "-q", "-o", "10", *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = (line.split() for line in output.splitlines() if line.startswith("["))
    return {int(words[0].strip("[]:")): int(words[1]) for words in lines}


def _packed(bits: list[int]) -> bytes:
    data = bytearray((len(bits) + 7) // 8)
    for i, bit in enumerate(bits):
        data[i // 8] |= bit << i % 8
    return bytes(data)


async def _read_tcp(reader: asyncio.StreamReader) -> bytes:
    header = await reader.readexactly(6)
    return header + await reader.readexactly(int.from_bytes(header[4:6], "big"))


async def read_rtu(reader: asyncio.StreamReader) -> bytes:
    """Read one RTU request."""
    frame = await reader.readexactly(7)
    rest = {15: 2 + frame[6], 16: 2 + frame[6], 22: 3}.get(frame[1], 1)
    return frame + await reader.readexactly(rest)
