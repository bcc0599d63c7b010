"""Checks an answer, byte by byte, against the request that it must belong to. Pure.

Modbus TCP frames carry a header with transaction id and length; RTU frames carry a CRC and end where
the request says that its answer must end.
"""

from __future__ import annotations

from collections.abc import Callable

from pymodbus.framer import FramerRTU

from stationkeeper.modbus.errors import AnswerMismatchError

# (request frame, bytes received so far) -> the answer's PDU, or None while it is incomplete.
AnswerCheck = Callable[[bytes, bytes], bytes | None]

_HEADER = 7
_READ_BITS = (1, 2)
_READ_WORDS = (3, 4)
_MASK_WRITE = 22


def answer_pdu(request: bytes, received: bytes) -> bytes | None:
    """Return the PDU (function code and data) of a Modbus TCP answer, or None while it is incomplete.

    `request` and `received` are whole frames with their MBAP header. Raises `AnswerMismatchError` when
    transaction id, protocol id, length, unit, function code, byte count or echo differ from what was
    asked, or when bytes follow the answer. An exception answer (function + 0x80) is returned as it is.
    """
    if len(received) < _HEADER + 1:
        return None
    if received[0:2] != request[0:2]:
        raise AnswerMismatchError(
            f"answer to transaction {_word(received, 0)}, but {_word(request, 0)} was asked"
        )
    if received[2:4] != b"\x00\x00":
        raise AnswerMismatchError(f"protocol id {_word(received, 2)} is not Modbus")
    length = _word(received, 4)
    if not 2 <= length <= 254:
        raise AnswerMismatchError(f"length field {length} is impossible")
    _check_origin(request[6:], received[6:])
    if len(received) < 6 + length:
        return None
    if len(received) > 6 + length:
        raise AnswerMismatchError(f"{len(received) - 6 - length} bytes follow the answer")
    pdu = received[_HEADER:]
    _check_body(request[_HEADER:], pdu)
    return pdu


def rtu_answer_pdu(request: bytes, received: bytes) -> bytes | None:
    """Return the PDU of an RTU answer, or None while it is incomplete.

    `request` and `received` are whole frames with unit and CRC. Raises `AnswerMismatchError` as
    `answer_pdu` does, and for a wrong CRC.
    """
    _check_origin(request, received)
    if len(received) < 3:
        return None
    asked = request[1:-2]
    if received[1] & 0x80:
        size = 5
    else:
        size = 3 + _answer_length(asked)
        if asked[0] in _READ_BITS + _READ_WORDS and received[2] != size - 5:
            raise AnswerMismatchError(f"answer of {received[2]} bytes, but {size - 5} were asked")
    if len(received) < size:
        return None
    if len(received) > size:
        raise AnswerMismatchError(f"{len(received) - size} bytes follow the answer")
    if FramerRTU.compute_CRC(received[:-2]) != _word(received, size - 2):
        raise AnswerMismatchError(f"wrong CRC in {received.hex()}")
    pdu = received[1:-2]
    _check_body(asked, pdu)
    return pdu


def echoed_rtu_answer_pdu(request: bytes, received: bytes) -> bytes | None:
    """Like `rtu_answer_pdu`, on a line that gives every sent byte back before the answer.

    Raises `AnswerMismatchError` when the echo is not the request: a collision or noise on the line.
    """
    echo = received[: len(request)]
    if not request.startswith(echo):
        raise AnswerMismatchError(f"the line echoed {echo.hex()} when {request.hex()} was sent")
    return rtu_answer_pdu(request, received[len(request) :])


def words_of(pdu: bytes) -> list[int]:
    """Return the registers of a checked answer to function 3 or 4."""
    return [_word(pdu, i) for i in range(2, len(pdu), 2)]


def bits_of(pdu: bytes, count: int) -> list[int]:
    """Return the first `count` bits (0 or 1) of a checked answer to function 1 or 2."""
    return [pdu[2 + i // 8] >> (i % 8) & 1 for i in range(count)]


def _check_origin(request: bytes, received: bytes) -> None:
    """Compare unit and function, which lead both frames, as far as they have arrived."""
    if received[:1] and received[0] != request[0]:
        raise AnswerMismatchError(f"answer of unit {received[0]}, but unit {request[0]} was asked")
    if received[1:2] and received[1] not in (request[1], request[1] | 0x80):
        raise AnswerMismatchError(f"answer to function {received[1]}, but {request[1]} was asked")


def _answer_length(asked: bytes) -> int:
    """Bytes of the PDU that must answer the PDU `asked`, if it is not an exception."""
    if asked[0] in _READ_WORDS:
        return 2 + _word(asked, 3) * 2
    if asked[0] in _READ_BITS:
        return 2 + (_word(asked, 3) + 7) // 8
    return 7 if asked[0] == _MASK_WRITE else 5


def _check_body(asked: bytes, pdu: bytes) -> None:
    if pdu[0] & 0x80:
        if len(pdu) != 2:
            raise AnswerMismatchError(f"an exception has 2 bytes, this has {len(pdu)}")
        return
    length = _answer_length(asked)
    if asked[0] in _READ_BITS + _READ_WORDS:
        if len(pdu) != length or pdu[1] != length - 2:
            raise AnswerMismatchError(f"{_word(asked, 3)} values are {length - 2} bytes, got {len(pdu) - 2}")
    elif pdu != asked[:length]:
        # A write echoes the address and the value, the count or the masks, and nothing else.
        raise AnswerMismatchError(f"write of {asked[1:length].hex()} was echoed as {pdu[1:].hex()}")


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")
