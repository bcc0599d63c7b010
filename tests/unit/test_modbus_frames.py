"""The answer checks: nothing passes that is not, byte for byte, the answer to the request."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from modbus_servers import Device, crc

from stationkeeper.modbus import frames
from stationkeeper.modbus.errors import AnswerMismatchError

READS = [struct.pack(">BHH", function, 3, 20) for function in (1, 2, 3, 4)]
WRITES = [
    b"\x05\x00\x03\xff\x00",
    b"\x06\x00\x03\x12\x34",
    b"\x0f\x00\x03\x00\x0a\x02\x55\x01",
    b"\x10\x00\x03\x00\x02\x04\x00\x01\x00\x02",
    b"\x16\x00\x03\xff\x00\x00\x12",
]
Frame = Callable[[bytes], bytes]


def tcp(pdu: bytes, unit: int = 1, transaction: int = 0x0102) -> bytes:
    return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu


def rtu(pdu: bytes, unit: int = 1) -> bytes:
    return bytes([unit]) + pdu + crc(bytes([unit]) + pdu)


@pytest.mark.parametrize("asked", READS + WRITES, ids=lambda pdu: f"function {pdu[0]}")
@pytest.mark.parametrize(("check", "frame"), [(frames.answer_pdu, tcp), (frames.rtu_answer_pdu, rtu)])
def test_the_right_answer_passes_and_each_part_of_it_is_waited_for(
    asked: bytes, check: frames.AnswerCheck, frame: Frame
) -> None:
    pdu = Device().pdu(asked)
    answer = frame(pdu)
    assert check(frame(asked), answer) == pdu
    assert [check(frame(asked), answer[:n]) for n in range(len(answer))] == [None] * len(answer)


@pytest.mark.criterion("MW-9")
@pytest.mark.parametrize("asked", WRITES, ids=lambda pdu: f"function {pdu[0]}")
@pytest.mark.parametrize(("check", "frame"), [(frames.answer_pdu, tcp), (frames.rtu_answer_pdu, rtu)])
def test_a_write_passes_only_with_every_bit_of_its_echo(
    asked: bytes, check: frames.AnswerCheck, frame: Frame
) -> None:
    echo = Device().pdu(asked)
    for position in range(1, len(echo)):
        for bit in range(8):
            wrong = bytearray(echo)
            wrong[position] ^= 1 << bit
            with pytest.raises(AnswerMismatchError, match="echoed"):
                check(frame(asked), frame(bytes(wrong)))


@pytest.mark.criterion("MW-9")
@pytest.mark.parametrize("asked", READS, ids=lambda pdu: f"function {pdu[0]}")
@pytest.mark.parametrize(("check", "frame"), [(frames.answer_pdu, tcp), (frames.rtu_answer_pdu, rtu)])
def test_a_read_passes_only_with_as_many_bytes_as_asked(
    asked: bytes, check: frames.AnswerCheck, frame: Frame
) -> None:
    right = Device().pdu(asked)
    for length in set(range(256)) - {right[1]}:
        with pytest.raises(AnswerMismatchError):
            check(frame(asked), frame(bytes([asked[0], length]) + bytes(length)))
    with pytest.raises(AnswerMismatchError):
        check(frame(asked), frame(right + b"\x00"))


@pytest.mark.criterion("MW-9")
@pytest.mark.parametrize("asked", READS + WRITES, ids=lambda pdu: f"function {pdu[0]}")
def test_an_answer_of_another_transaction_unit_or_function_is_refused(asked: bytes) -> None:
    pdu = Device().pdu(asked)
    for transaction in (0, 0x0103, 0x0202, 0xFFFF):
        with pytest.raises(AnswerMismatchError, match="transaction"):
            frames.answer_pdu(tcp(asked), tcp(pdu, transaction=transaction))
    for unit in (0, 2, 247, 255):
        with pytest.raises(AnswerMismatchError, match=f"unit {unit}"):
            frames.answer_pdu(tcp(asked), tcp(pdu, unit))
        with pytest.raises(AnswerMismatchError, match=f"unit {unit}"):
            frames.rtu_answer_pdu(rtu(asked), rtu(pdu, unit))
    for function in set(range(256)) - {asked[0], asked[0] | 0x80}:
        other = bytes([function]) + pdu[1:]
        with pytest.raises(AnswerMismatchError, match=f"function {function}"):
            frames.answer_pdu(tcp(asked), tcp(other))
        with pytest.raises(AnswerMismatchError, match=f"function {function}"):
            frames.rtu_answer_pdu(rtu(asked), rtu(other))


@pytest.mark.criterion("MW-16")
@pytest.mark.parametrize("asked", READS + WRITES, ids=lambda pdu: f"function {pdu[0]}")
def test_no_single_wrong_bit_passes_the_crc(asked: bytes) -> None:
    answer = rtu(Device().pdu(asked))
    for position in range(len(answer)):
        for bit in range(8):
            wrong = bytearray(answer)
            wrong[position] ^= 1 << bit
            # Bit 7 of the function makes an exception of it, whose end comes earlier.
            with pytest.raises(AnswerMismatchError):
                frames.rtu_answer_pdu(rtu(asked), bytes(wrong))
    with pytest.raises(AnswerMismatchError, match="CRC"):
        frames.rtu_answer_pdu(rtu(asked), answer[:-2] + answer[:-3:-1])


def test_an_exception_passes_as_it_is_on_rtu_too() -> None:
    assert frames.rtu_answer_pdu(rtu(READS[2]), rtu(b"\x83\x02")) == b"\x83\x02"
    with pytest.raises(AnswerMismatchError, match="bytes follow"):
        frames.rtu_answer_pdu(rtu(READS[2]), rtu(b"\x83\x02\x00"))


@pytest.mark.criterion("MW-16")
@pytest.mark.parametrize("asked", READS + WRITES, ids=lambda pdu: f"function {pdu[0]}")
def test_an_echo_is_swallowed_and_must_be_the_request(asked: bytes) -> None:
    request, pdu = rtu(asked), Device().pdu(asked)
    whole = request + rtu(pdu)
    assert frames.echoed_rtu_answer_pdu(request, whole) == pdu
    assert [frames.echoed_rtu_answer_pdu(request, whole[:n]) for n in range(len(whole))] == [None] * len(
        whole
    )
    for position in range(len(request)):
        wrong = bytearray(whole)
        wrong[position] ^= 1
        with pytest.raises(AnswerMismatchError, match="the line echoed"):
            frames.echoed_rtu_answer_pdu(request, bytes(wrong[: position + 1]))
