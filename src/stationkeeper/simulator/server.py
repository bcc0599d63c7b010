"""Modbus TCP server for simulated devices.

An own small server rather than pymodbus's: the wire faults that a fleet must survive (torn, late, short or
foreign answers) happen at the level of frames, which a library rightly does not let one spoil; and
pymodbus's server lets a multi-register write change half of a 32-bit value.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Mapping
from typing import Any

from stationkeeper.modbus.client import Table
from stationkeeper.simulator.device import (
    ILLEGAL_ADDRESS,
    ILLEGAL_FUNCTION,
    ILLEGAL_VALUE,
    TARGET_SILENT,
    DeviceException,
    SimulatedDevice,
)
from stationkeeper.simulator.served_log import ServedLog

_READ_TABLES = {1: Table.COIL, 2: Table.DISCRETE, 3: Table.HOLDING, 4: Table.INPUT}
_WRITE_TABLES = {5: Table.COIL, 6: Table.HOLDING, 15: Table.COIL, 16: Table.HOLDING}
_COIL_ON, _COIL_OFF = 0xFF00, 0x0000


class SimulatorServer:
    """Serves devices by unit id on one address; every request is logged with its answer."""

    def __init__(self, devices: Mapping[int, SimulatedDevice], log: ServedLog | None = None) -> None:
        self._devices = devices
        self._log = log
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port (which the system chooses for port 0). Raises `OSError`."""
        self._server = await asyncio.start_server(self._serve, host, port)
        number: int = self._server.sockets[0].getsockname()[1]
        return number

    async def close(self) -> None:
        """Stop listening and close all connections."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._connections):
            writer.close()
        # Closed connections end their handlers in the next turns of the loop.
        while self._connections:
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        client = "{}:{}".format(*writer.get_extra_info("peername")[:2])
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    transaction, protocol, length, unit = struct.unpack(">HHHB", await reader.readexactly(7))
                    if protocol != 0 or not 2 <= length <= 254:
                        break
                    answer = self.answer(client, unit, await reader.readexactly(length - 1))
                    writer.write(struct.pack(">HHHB", transaction, 0, len(answer) + 1, unit) + answer)
                    await writer.drain()
        finally:
            self._connections.discard(writer)
            writer.close()

    def answer(self, client: str, unit: int, pdu: bytes) -> bytes:
        """Return the answer's PDU and log it; `client` is `ip:port`. Any bytes have an answer."""
        device = self._devices.get(unit)
        entry: dict[str, Any] = {
            "client": client,
            "unit": unit,
            "device": device.name if device else None,
            "function": pdu[0],
        }
        try:
            if device is None:
                raise DeviceException(TARGET_SILENT)
            answer = _execute(device, pdu, entry)
        except DeviceException as exception:
            entry["exception"] = exception.code
            answer = bytes([pdu[0] | 0x80, exception.code])
        if self._log is not None:
            self._log.append(entry)
        return answer


def _execute(device: SimulatedDevice, pdu: bytes, entry: dict[str, Any]) -> bytes:
    function = pdu[0]
    if function in _READ_TABLES:
        address, count = _fields(pdu, 5, ">HH")
        return _read(device, function, address, count, entry)
    if function in (5, 6):
        address, value = _fields(pdu, 5, ">HH")
        if function == 5 and value not in (_COIL_ON, _COIL_OFF):
            raise DeviceException(ILLEGAL_VALUE)
        words = [int(value == _COIL_ON)] if function == 5 else [value]
        _write(device, _WRITE_TABLES[function], address, words, entry)
        return pdu[:5]
    if function in (15, 16):
        address, count, size = _fields(pdu, 6, ">HHB", exact=False)
        words = _bits(pdu[6:], count, size) if function == 15 else _words(pdu[6:], count, size)
        _write(device, _WRITE_TABLES[function], address, words, entry)
        return pdu[:5]
    if function == 22:
        address, and_mask, or_mask = _fields(pdu, 7, ">HHH")
        current = device.read(Table.HOLDING, address, 1)[0]
        _write(device, Table.HOLDING, address, [(current & and_mask) | (or_mask & ~and_mask & 0xFFFF)], entry)
        return pdu
    if function == 23:
        address, count, to_address, to_count, size = _fields(pdu, 10, ">HHHHB", exact=False)
        words = _words(pdu[10:], to_count, size)
        _write(device, Table.HOLDING, to_address, words, entry)
        entry["written_address"] = to_address
        return bytes([23]) + _read(device, 3, address, count, entry)[1:]
    raise DeviceException(ILLEGAL_FUNCTION)


def _read(device: SimulatedDevice, function: int, address: int, count: int, entry: dict[str, Any]) -> bytes:
    table = _READ_TABLES[function]
    entry |= {"address": address, "count": count}
    _check_range(address, count, 2000 if table.is_bits else 125)
    words = device.read(table, address, count)
    entry["words"] = words
    if not table.is_bits:
        return struct.pack(f">BB{count}H", function, count * 2, *words)
    packed = bytearray((count + 7) // 8)
    for number, bit in enumerate(words):
        packed[number // 8] |= bit << number % 8
    return bytes([function, len(packed)]) + bytes(packed)


def _write(
    device: SimulatedDevice, table: Table, address: int, words: list[int], entry: dict[str, Any]
) -> None:
    entry |= {"address": address, "written": words}
    _check_range(address, len(words), 1968 if table.is_bits else 123)
    device.write(table, address, words)


def _check_range(address: int, count: int, limit: int) -> None:
    if not 1 <= count <= limit:
        raise DeviceException(ILLEGAL_VALUE)
    if address + count > 0x10000:
        raise DeviceException(ILLEGAL_ADDRESS)


def _fields(pdu: bytes, size: int, layout: str, *, exact: bool = True) -> tuple[int, ...]:
    if len(pdu) < size or (exact and len(pdu) != size):
        raise DeviceException(ILLEGAL_VALUE)
    return struct.unpack(layout, pdu[1:size])


def _words(data: bytes, count: int, size: int) -> list[int]:
    if size != count * 2 or len(data) != size:
        raise DeviceException(ILLEGAL_VALUE)
    return list(struct.unpack(f">{count}H", data))


def _bits(data: bytes, count: int, size: int) -> list[int]:
    if size != (count + 7) // 8 or len(data) != size:
        raise DeviceException(ILLEGAL_VALUE)
    return [data[number // 8] >> number % 8 & 1 for number in range(count)]
