"""The one Modbus client: strict, asynchronous, over pymodbus (3.8 and later)."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from enum import StrEnum
from typing import Any

from pymodbus.client import AsyncModbusTcpClient

from stationkeeper.modbus import frames
from stationkeeper.modbus.errors import (
    AnswerMismatchError,
    ConnectionFailedError,
    DeviceExceptionError,
    ModbusError,
    NoAnswerError,
    RequestError,
)

# pymodbus logs each time-out and mismatch, with frames, at error level; this client raises all of them
# as ModbusError, so a silent device would fill the journal with what its caller reports already.
logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL + 1)

# 3.8 and 3.9 call the unit `slave`, 3.10 and later `device_id`.
_UNIT_ARGUMENT = (
    "device_id"
    if "device_id" in inspect.signature(AsyncModbusTcpClient.read_holding_registers).parameters
    else "slave"
)


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
    """One connection to one Modbus TCP endpoint; requests of several units are serialised on it.

    Nothing is retried. The connection is opened on first use, and closed after any time-out, lost
    connection or answer that does not match its request, so that a late answer can never be taken for
    the next one's. Every method raises only `ModbusError`. `timeout_s` is for one answer,
    `connect_timeout_s` for the connection, `min_gap_s` the silence that a slow device needs between an
    answer and the next request. `sent_at` is the monotonic time at which the last request left.
    """

    def __init__(
        self,
        host: str,
        port: int = 502,
        timeout_s: float = 3.0,
        connect_timeout_s: float = 3.0,
        *,
        min_gap_s: float = 0.0,
    ) -> None:
        self.host = host
        self.port = port
        self.sent_at: float | None = None
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._min_gap_s = min_gap_s
        self._answered_at = 0.0
        self._lock = asyncio.Lock()
        self._client: AsyncModbusTcpClient | None = None
        self._request = b""
        self._answer: asyncio.Future[bytes] | None = None

    @property
    def connected(self) -> bool:
        """True while a connection is open and has not been found faulty."""
        return self._client is not None

    async def read(self, unit: int, table: Table | str, address: int, count: int) -> list[int]:
        """Return `count` registers (0 to 65535) or bits (0 or 1) from `address` on, in one request."""
        space = Table(table)
        limit = 2000 if space.is_bits else 125
        _check_request(unit, address, count, limit)
        pdu = await self._exchange(_READERS[space], unit, False, address, count=count)
        return frames.bits_of(pdu, count) if space.is_bits else frames.words_of(pdu)

    async def write(self, unit: int, address: int, words: Sequence[int]) -> None:
        """Write holding registers in one request: function 6 for one word, 16 for several.

        Returns when the device has echoed the write. A time-out, a lost connection or a wrong echo after
        the request has left raises an error whose outcome is `unknown`.
        """
        _check_request(unit, address, len(words), 123)
        if any(isinstance(word, bool) or not 0 <= word <= 0xFFFF for word in words):
            raise RequestError(f"not 16-bit register values: {list(words)}")
        if len(words) == 1:
            await self._exchange("write_register", unit, True, address, words[0])
        else:
            await self._exchange("write_registers", unit, True, address, list(words))

    async def close(self) -> None:
        """Close the connection; a later request opens a new one."""
        async with self._lock:
            self._drop()

    async def _exchange(self, method: str, unit: int, writing: bool, *args: Any, **kwargs: Any) -> bytes:
        async with self._lock:
            client = self._client or await self._connect()
            pause = self._answered_at + self._min_gap_s - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            kwargs[_UNIT_ARGUMENT] = unit
            try:
                return await self._await_answer(_call(getattr(client, method), args, kwargs), unit, writing)
            except DeviceExceptionError:
                raise
            except BaseException:
                self._drop()
                raise
            finally:
                self._answered_at = time.monotonic()

    async def _await_answer(self, sending: Coroutine[Any, Any, None], unit: int, writing: bool) -> bytes:
        where = f"unit {unit} at {self.host}:{self.port}"
        self._request = b""
        answer = self._answer = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(sending)
        task.add_done_callback(lambda done: _pass_failure(done, answer))
        try:
            async with asyncio.timeout(self._timeout_s):
                # pymodbus's own result is not waited for: the checked frame is the answer, and a lost
                # connection, of which pymodbus does not tell its caller, ends `answer` at once.
                pdu: bytes = await answer
        except TimeoutError:
            raise NoAnswerError(f"{where}: no answer within {self._timeout_s:g} s", writing=writing) from None
        except ConnectionError:
            if not self._request:
                raise ConnectionFailedError(f"{where}: connection lost before the request left") from None
            raise NoAnswerError(f"{where} closed the connection", writing=writing) from None
        except AnswerMismatchError as error:
            raise AnswerMismatchError(f"{where}: {error.message}") from None
        finally:
            self._answer = None
            answer.cancel()
            task.cancel()
            await asyncio.wait([task])
        if pdu[0] & 0x80:
            raise DeviceExceptionError(pdu[1], f"{where} refused function {pdu[0] & 0x7F}", writing=writing)
        return pdu

    async def _connect(self) -> AsyncModbusTcpClient:
        where = f"{self.host}:{self.port}"
        client = AsyncModbusTcpClient(
            self.host,
            port=self.port,
            retries=0,
            reconnect_delay=0,
            # Longer than ours: this class alone decides when a wait ends.
            timeout=self._timeout_s + self._connect_timeout_s,
            trace_packet=self._trace_packet,
            trace_connect=lambda up: None if up else self._lost(client),
        )
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                connected = await client.connect()
        except TimeoutError:
            client.close()
            raise ConnectionFailedError(f"{where}: no connection in {self._connect_timeout_s:g} s") from None
        except BaseException:
            client.close()
            raise
        if not connected:
            client.close()
            raise ConnectionFailedError(
                f"{where} refuses or is not reachable (another master may hold its only session)"
            )
        self._client = client
        return client

    def _drop(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            client.close()

    def _trace_packet(self, sending: bool, data: bytes) -> bytes:
        if sending:
            self._request = data
            self.sent_at = time.monotonic()
            return data
        answer = self._answer
        if answer is None or answer.done() or not self._request:
            # Nobody asked: whatever comes next on this connection could be one answer late.
            self._drop()
            return b""
        try:
            pdu = frames.answer_pdu(self._request, data)
        except ModbusError as error:
            answer.set_exception(error)
            return b""
        if pdu is not None:
            answer.set_result(pdu)
        return data

    def _lost(self, client: AsyncModbusTcpClient) -> None:
        if self._client is not client:
            return
        self._client = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError())


async def _call(send: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    await send(*args, **kwargs)


def _pass_failure(task: asyncio.Task[None], answer: asyncio.Future[bytes]) -> None:
    """End the wait when pymodbus gives up by itself, which it does only without a connection."""
    if not task.cancelled() and task.exception() is not None and not answer.done():
        answer.set_exception(ConnectionError())


def _check_request(unit: int, address: int, count: int, limit: int) -> None:
    if not 1 <= unit <= 247 and unit != 255:
        raise RequestError(f"unit {unit} is not 1 to 247 (or 255 for a direct TCP device); 0 is broadcast")
    if not 1 <= count <= limit:
        raise RequestError(f"{count} values in one request, allowed are 1 to {limit}")
    if address < 0 or address + count > 0x10000:
        raise RequestError(f"addresses {address} to {address + count - 1} are not within 0 to 65535")
