"""The one Modbus client: strict, asynchronous, over pymodbus (3.8 and later)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from stationkeeper.modbus import frames
from stationkeeper.modbus.errors import RequestError
from stationkeeper.modbus.transport_connection import StrictConnection
from stationkeeper.modbus.transports import Endpoint, SerialSettings, Transport


class Table(StrEnum):
    """The four Modbus address spaces; addresses are 0-based as in the PDU."""

    COIL = "coil"
    DISCRETE = "discrete"
    INPUT = "input"
    HOLDING = "holding"

    @property
    def is_bits(self) -> bool:
        """True where one address is one bit, not one 16-bit word."""
        return self in (Table.COIL, Table.DISCRETE)


_READERS = {
    Table.COIL: "read_coils",
    Table.DISCRETE: "read_discrete_inputs",
    Table.INPUT: "read_input_registers",
    Table.HOLDING: "read_holding_registers",
}


class StrictClient:
    """One connection to one endpoint; requests of several units are serialised on it.

    Nothing is retried. The connection is opened on first use, and closed after any time-out, lost
    connection, unasked byte or answer that does not match its request, so that a late answer can never
    be taken for the next one's. RTU frames carry no transaction id, so there the line must then have
    been silent for `timeout_s`, the longest that a device takes to answer, before it is used again.

    `transport` is `tcp`, `rtu_over_tcp` or `serial` (`host` is the device's path and `port` unused);
    `serial` describes the line of the latter two. `timeout_s` is for one answer (on a serial line with
    the transmission of both frames), `connect_timeout_s` for the connection, `min_gap_s` the silence
    that a slow device needs between an answer and the next request. Raises `RequestError` for settings
    that do not fit together; every method raises only `ModbusError`.
    """

    def __init__(
        self,
        host: str,
        port: int = 502,
        timeout_s: float = 3.0,
        connect_timeout_s: float = 3.0,
        *,
        min_gap_s: float = 0.0,
        transport: Transport | str = Transport.TCP,
        serial: SerialSettings | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._endpoint = Endpoint.of(host, port, transport, serial)
        self._connection = StrictConnection(self._endpoint, timeout_s, connect_timeout_s, min_gap_s)

    @property
    def connected(self) -> bool:
        """True while a connection is open and has not been found faulty."""
        return self._connection.is_open

    @property
    def sent_at(self) -> float | None:
        """The monotonic time at which the last request left."""
        return self._connection.sent_at

    async def read(self, unit: int, table: Table | str, address: int, count: int) -> list[int]:
        """Return `count` registers (0 to 65535) or bits (0 or 1) from `address` on, in one request."""
        if table not in list(Table):
            raise RequestError(f"table is one of {', '.join(Table)}, not {table!r}")
        space = Table(table)
        self._endpoint.check_unit(unit)
        _check_range(address, count, 2000 if space.is_bits else 125)
        pdu = await self._connection.exchange(_READERS[space], unit, False, address, count=count)
        return frames.bits_of(pdu, count) if space.is_bits else frames.words_of(pdu)

    async def write(
        self,
        unit: int,
        address: int,
        words: Sequence[int],
        *,
        function: int | None = None,
        broadcast: bool = False,
    ) -> None:
        """Write holding registers in one request: function 6 for one word, 16 for several.

        `function` (6 or 16) forces one. Returns when the device has echoed the write; a time-out, a lost
        connection or a wrong echo after the request has left raises an error whose outcome is `unknown`.
        `broadcast` goes to unit 0, that is to every unit of the line: nobody answers, and the return
        says only that the request has left.
        """
        single = _is_single(function, len(words), 6, 16)
        if broadcast and unit != 0:
            raise RequestError(f"a broadcast goes to unit 0, not {unit}")
        if not broadcast:
            self._endpoint.check_unit(unit)
        _check_range(address, len(words), 123)
        _check_words(words)
        method, value = ("write_register", words[0]) if single else ("write_registers", list(words))
        if broadcast:
            await self._connection.broadcast(method, address, value)
        else:
            await self._connection.exchange(method, unit, True, address, value)

    async def write_coils(
        self, unit: int, address: int, bits: Sequence[int], *, function: int | None = None
    ) -> None:
        """Write coils (0 or 1) in one request: function 5 for one, 15 for several, or as forced.

        Returns and raises like `write`.
        """
        single = _is_single(function, len(bits), 5, 15)
        self._endpoint.check_unit(unit)
        _check_range(address, len(bits), 1968)
        if any(bit not in (0, 1) for bit in bits):
            raise RequestError(f"coils are 0 or 1, not {list(bits)}")
        values = [bool(bit) for bit in bits]
        if single:
            await self._connection.exchange("write_coil", unit, True, address, values[0])
        else:
            await self._connection.exchange("write_coils", unit, True, address, values)

    async def mask_write(self, unit: int, address: int, and_mask: int, or_mask: int) -> None:
        """Let the device set a register to (old AND and_mask) OR (or_mask AND NOT and_mask), function 22.

        Returns and raises like `write`.
        """
        self._endpoint.check_unit(unit)
        _check_range(address, 1, 1)
        _check_words((and_mask, or_mask))
        await self._connection.exchange(
            "mask_write_register", unit, True, address=address, and_mask=and_mask, or_mask=or_mask
        )

    async def close(self) -> None:
        """Close the connection; a later request opens a new one."""
        await self._connection.close()


def _is_single(function: int | None, count: int, single: int, multiple: int) -> bool:
    if function not in (None, single, multiple):
        raise RequestError(f"function {function} does not write this; {single} and {multiple} do")
    if function == single and count != 1:
        raise RequestError(f"function {single} writes one value, not {count}")
    return function == single or (function is None and count == 1)


def _check_range(address: int, count: int, limit: int) -> None:
    if not 1 <= count <= limit:
        raise RequestError(f"{count} values in one request, allowed are 1 to {limit}")
    if address < 0 or address + count > 0x10000:
        raise RequestError(f"addresses {address} to {address + count - 1} are not within 0 to 65535")


def _check_words(words: Sequence[int]) -> None:
    if any(isinstance(word, bool) or not isinstance(word, int) or not 0 <= word <= 0xFFFF for word in words):
        raise RequestError(f"not 16-bit register values: {list(words)}")
