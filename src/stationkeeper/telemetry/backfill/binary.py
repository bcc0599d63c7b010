"""PostgreSQL's binary COPY format, written in Python for sources that are no PostgreSQL.

Each value is checked on its way: a wrong type, a number out of range or a time without an offset raises
TelemetryError with the column and the row, before the database sees anything.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from stationkeeper.telemetry.source import TelemetryError

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
TRAILER = struct.pack("!h", -1)
_NULL = struct.pack("!i", -1)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# How many rows go out in one write.
_ROWS = 1000

_eight = struct.Struct("!iq").pack
_four = struct.Struct("!ii").pack
_double = struct.Struct("!id").pack
_length = struct.Struct("!i").pack
_sixteen = _length(16)


class Writable(Protocol):
    """What takes bytes: a file, a pipe, a buffer."""

    def write(self, data: bytes, /) -> Any:
        """Take bytes."""


def _time(value: Any) -> bytes:
    if not isinstance(value, datetime):
        raise TypeError("not a time")
    if value.tzinfo is None:
        raise TypeError(f"{value.isoformat()} has no offset from UTC")
    return _eight(8, (value - _EPOCH) // _MICROSECOND)


def _microseconds(value: Any) -> bytes:
    return _eight(8, value + _EPOCH_1970)


def _uuid(value: Any) -> bytes:
    return _sixteen + (value if isinstance(value, UUID) else UUID(value)).bytes


def _integer(pack: Callable[[int, int], bytes], size: int) -> Callable[[Any], bytes]:
    def encode(value: Any) -> bytes:
        # A bool is an int to Python, and a float that is whole would lose what it means.
        if type(value) is not int:
            raise TypeError("not a whole number")
        return pack(size, value)

    return encode


def _float(value: Any) -> bytes:
    if type(value) is not float and type(value) is not int:
        raise TypeError("not a number")
    return _double(8, value)


def _text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError("not text")
    data = value.encode()
    if b"\0" in data:
        raise TypeError("text with a zero byte")
    return _length(len(data)) + data


#: A type of its own: times as microseconds since 1970 in UTC, as Arrow holds them.
MICROSECONDS = "microseconds since 1970"
_EPOCH_1970 = (datetime(1970, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND

ENCODERS: Mapping[str, Callable[[Any], bytes]] = {
    "timestamp with time zone": _time,
    "uuid": _uuid,
    "bigint": _integer(_eight, 8),
    "integer": _integer(_four, 4),
    "double precision": _float,
    "text": _text,
    MICROSECONDS: _microseconds,
}


def write_rows(out: Writable, columns: Mapping[str, str], rows: Iterable[Sequence[Any]]) -> int:
    """Write rows (values in the order of ``columns``, name to type) as one COPY stream; return their number.

    Raises TelemetryError for a value that does not have its column's type.
    """
    encoders = [ENCODERS[type_] for type_ in columns.values()]
    head = struct.pack("!h", len(encoders))
    out.write(HEADER)
    count = 0
    pieces: list[bytes] = []
    for count, row in enumerate(rows, start=1):
        pieces.append(head)
        try:
            pieces += [
                _NULL if value is None else encode(value) for encode, value in zip(encoders, row, strict=True)
            ]
        except (TypeError, ValueError, struct.error, AttributeError):
            raise _refused(columns, row, count) from None
        if count % _ROWS == 0:
            out.write(b"".join(pieces))
            pieces.clear()
    pieces.append(TRAILER)
    out.write(b"".join(pieces))
    return count


def _refused(columns: Mapping[str, str], row: Sequence[Any], number: int) -> TelemetryError:
    """Find the column that made a row fail."""
    if len(row) != len(columns):
        return TelemetryError(f"row {number} has {len(row)} values instead of {len(columns)}")
    for (name, type_), value in zip(columns.items(), row, strict=True):
        try:
            if value is not None:
                ENCODERS[type_](value)
        except (TypeError, ValueError, struct.error, AttributeError) as error:
            return TelemetryError(f"row {number}, column {name}: {value!r} is no {type_} ({error})")
    raise AssertionError("a row failed, but none of its values does")
