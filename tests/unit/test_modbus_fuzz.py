"""Fuzz: no frame, however broken, raises anything but the module's own error.

130,000 frames go through the checks alone and 120,000, in random pieces, through the whole receive path:
what the event loop calls when bytes arrive. The seeds are fixed, so a failure repeats.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import pytest
from modbus_servers import Device
from test_modbus_frames import READS, WRITES, rtu, tcp

from stationkeeper.modbus import frames
from stationkeeper.modbus.errors import AnswerMismatchError, ModbusError
from stationkeeper.modbus.transport_connection import StrictConnection
from stationkeeper.modbus.transports import Endpoint, SerialSettings, Transport

CHECKED = 130_000
RECEIVED = 40_000  # for each of three transports
RIGHT = {asked: Device().pdu(asked) for asked in READS + WRITES}

pytestmark = pytest.mark.criterion("MW-21")


def mangled(random_: random.Random, asked: bytes, frame: Callable[[bytes], bytes]) -> bytes:
    """Random bytes, or the right answer with bytes changed, cut, added or repeated, often well framed."""
    kind = random_.random()
    if kind < 0.2:
        return random_.randbytes(random_.randint(1, 300))
    pdu = bytearray(RIGHT[asked])
    if kind < 0.6:
        pdu = _broken(random_, pdu)
        return frame(bytes(pdu[:250]) or b"\x00")
    return bytes(_broken(random_, bytearray(frame(bytes(pdu)))))


def _broken(random_: random.Random, data: bytearray) -> bytearray:
    for _ in range(random_.randint(1, 3)):
        match random_.randrange(4):
            case 0 if data:
                data[random_.randrange(len(data))] = random_.randrange(256)
            case 1:
                data = data[: random_.randint(0, len(data))]
            case 2:
                data += random_.randbytes(random_.randint(1, 5))
            case _:
                data = data + data
    return data


def _check_passed(asked: bytes, pdu: bytes) -> None:
    """Whatever passes is what the caller can use: all the values that were asked for, or the echo."""
    if pdu[0] & 0x80:
        assert len(pdu) == 2
    elif asked in READS:
        count = int.from_bytes(asked[3:5], "big")
        assert len(frames.bits_of(pdu, count) if asked[0] < 3 else frames.words_of(pdu)) == count
    else:
        assert pdu == RIGHT[asked]


def test_the_checks_raise_only_a_mismatch() -> None:
    random_ = random.Random(21)
    passed = refused = 0
    for _ in range(CHECKED):
        asked = random_.choice(READS + WRITES)
        check, frame = random_.choice([(frames.answer_pdu, tcp), (frames.rtu_answer_pdu, rtu)])
        received = mangled(random_, asked, frame)
        if frame is rtu and random_.random() < 0.3:
            check, received = frames.echoed_rtu_answer_pdu, rtu(asked) + received
        try:
            pdu = check(frame(asked), received)
        except AnswerMismatchError:
            refused += 1
        else:
            if pdu is not None:
                passed += 1
                _check_passed(asked, pdu)
    # It is no test of the checks if nearly nothing gets past the first of them.
    assert passed > 1000
    assert refused > 50_000


@pytest.mark.parametrize(
    ("transport", "local_echo"),
    [(Transport.TCP, False), (Transport.RTU_OVER_TCP, False), (Transport.RTU_OVER_TCP, True)],
)
def test_the_receive_path_raises_only_modbus_errors(transport: Transport, local_echo: bool) -> None:
    frame = tcp if transport is Transport.TCP else rtu
    line = None if transport is Transport.TCP else SerialSettings(local_echo=local_echo)
    random_ = random.Random(22)
    ends = {"answered": 0, "refused": 0, "waiting": 0}

    async def test() -> None:
        connection = StrictConnection(Endpoint.of("127.0.0.1", 1, transport, line), 1, 1, 0)
        for _ in range(RECEIVED):
            asked = random_.choice(READS + WRITES)
            received = mangled(random_, asked, frame)
            if local_echo and random_.random() < 0.9:
                received = frame(asked) + received
            answer = connection._answer = asyncio.get_running_loop().create_future()
            connection._trace_packet(True, frame(asked))
            while received and not answer.done():
                cut = random_.randint(1, len(received))
                connection._receive(received[:cut])
                received = received[cut:]
            if not answer.done():
                ends["waiting"] += 1
                continue
            with contextlib.suppress(ModbusError):
                _check_passed(asked, answer.result())
            ends["refused" if answer.exception() else "answered"] += 1

    asyncio.run(test())
    assert min(ends.values()) > 100, ends
