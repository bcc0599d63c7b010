"""Checks a Modbus TCP answer, byte by byte, against the request that it must belong to. Pure."""

from __future__ import annotations

from stationkeeper.modbus.errors import AnswerMismatchError

_HEADER = 7
_READ_BITS = (1, 2)
_READ_WORDS = (3, 4)


def answer_pdu(request: bytes, received: bytes) -> bytes | None:
    """Return the answer's PDU (function code and data), or None while it is incomplete.

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
    if received[6] != request[6]:
        raise AnswerMismatchError(f"answer of unit {received[6]}, but unit {request[6]} was asked")
    function = request[_HEADER]
    if received[_HEADER] not in (function, function | 0x80):
        raise AnswerMismatchError(f"answer to function {received[_HEADER]}, but {function} was asked")
    if len(received) < 6 + length:
        return None
    if len(received) > 6 + length:
        raise AnswerMismatchError(f"{len(received) - 6 - length} bytes follow the answer")
    pdu = received[_HEADER:]
    _check_body(request[_HEADER:], pdu)
    return pdu


def words_of(pdu: bytes) -> list[int]:
    """Return the registers of a checked answer to function 3 or 4."""
    return [_word(pdu, i) for i in range(2, len(pdu), 2)]


def bits_of(pdu: bytes, count: int) -> list[int]:
    """Return the first `count` bits (0 or 1) of a checked answer to function 1 or 2."""
    return [pdu[2 + i // 8] >> (i % 8) & 1 for i in range(count)]


def _check_body(asked: bytes, pdu: bytes) -> None:
    function = asked[0]
    if pdu[0] & 0x80:
        if len(pdu) != 2:
            raise AnswerMismatchError(f"an exception has 2 bytes, this has {len(pdu)}")
        return
    if function in _READ_BITS or function in _READ_WORDS:
        count = _word(asked, 3)
        expected = count * 2 if function in _READ_WORDS else (count + 7) // 8
        if len(pdu) < 2 or pdu[1] != expected or len(pdu) != 2 + expected:
            raise AnswerMismatchError(f"{count} values are {expected} bytes, got {len(pdu) - 2}")
    elif pdu != asked[:5]:
        # Functions 6 and 16 echo the address and the value or the count, and nothing else.
        raise AnswerMismatchError(f"write of {asked[1:5].hex()} was echoed as {pdu[1:].hex()}")


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")
