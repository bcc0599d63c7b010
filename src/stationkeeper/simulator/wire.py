"""Frames on the wire: Modbus TCP and RTU (over TCP or a serial line), and how a fault spoils an answer."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from typing import Literal

from stationkeeper.simulator.faults import Fault

Transport = Literal["tcp", "rtu_over_tcp", "serial"]

# RTU has no length field; of a function that is not known, silence alone tells the frame's end.
_SILENCE_S = 0.05
_MAX_RTU_FRAME = 256


@dataclass(frozen=True, slots=True)
class Frame:
    """One request or answer; `transaction` is 0 on RTU."""

    unit: int
    pdu: bytes
    transaction: int = 0


async def read_frame(reader: asyncio.StreamReader, transport: Transport) -> Frame | None:
    """Return the next request, or None when what arrives is no Modbus TCP.

    RTU frames with a wrong CRC are passed over, as a device does. Raises `IncompleteReadError` at the end.
    """
    if transport == "tcp":
        transaction, protocol, length, unit = struct.unpack(">HHHB", await reader.readexactly(7))
        if protocol != 0 or not 2 <= length <= 254:
            return None
        return Frame(unit, await reader.readexactly(length - 1), transaction)
    while True:
        data = await _read_rtu(reader)
        if len(data) >= 4 and crc16(data[:-2]) == data[-2:]:
            return Frame(data[0], data[1:-2])
        await _drain(reader)


def build_frame(frame: Frame, transport: Transport, fault: Fault | None = None) -> bytes:
    """Return an answer's bytes, spoiled by the fault that hits it."""
    kind = fault.kind if fault else None
    unit, pdu = frame.unit, frame.pdu
    if kind == "wrong_unit":
        unit = unit % 247 + 1
    elif kind == "wrong_echo" and pdu[0] < 0x80:
        pdu = bytes([*pdu[:4], pdu[4] ^ 1, *pdu[5:]])
    elif kind == "short_count" and pdu[0] < 0x80:
        lost = 1 if pdu[0] in (1, 2) else 2
        pdu = bytes([pdu[0], pdu[1] - lost]) + pdu[2 : len(pdu) - lost]
    if transport == "tcp":
        transaction = (frame.transaction + (kind == "wrong_transaction")) & 0xFFFF
        data = struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu
    else:
        data = bytes([unit]) + pdu
        crc = crc16(data)
        data += bytes([crc[0] ^ 0x10, crc[1]]) if kind == "crc_noise" else crc
    return data[: len(data) // 2] if kind == "close_mid_frame" else data


def crc16(data: bytes) -> bytes:
    """Return the two bytes of Modbus RTU's CRC, in the order in which they are sent."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc.to_bytes(2, "little")


async def _read_rtu(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(2)
    function = head[1]
    if 1 <= function <= 6:
        return head + await reader.readexactly(6)
    if function == 22:
        return head + await reader.readexactly(8)
    if function in (15, 16, 23):
        head += await reader.readexactly(5 if function != 23 else 9)
        return head + await reader.readexactly(head[-1] + 2)
    return head + await _drain(reader)


async def _drain(reader: asyncio.StreamReader) -> bytes:
    """Return what arrives until the line is silent."""
    data = b""
    while len(data) < _MAX_RTU_FRAME:
        try:
            async with asyncio.timeout(_SILENCE_S):
                part = await reader.read(_MAX_RTU_FRAME)
        except TimeoutError:
            break
        if not part:
            break
        data += part
    return data
