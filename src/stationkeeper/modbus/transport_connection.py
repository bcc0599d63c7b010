"""One connection on which every answer is checked against its request, over pymodbus (3.8 and later)."""

from __future__ import annotations

import asyncio
import inspect
import termios
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from pymodbus.client import AsyncModbusTcpClient

from stationkeeper.modbus.errors import (
    AnswerMismatchError,
    ConnectionFailedError,
    DeviceExceptionError,
    ModbusError,
    NoAnswerError,
)
from stationkeeper.modbus.transports import BROADCAST_TURNAROUND_S, Endpoint

# 3.8 and 3.9 call the unit `slave`, 3.10 and later `device_id`.
_UNIT_ARGUMENT = (
    "device_id"
    if "device_id" in inspect.signature(AsyncModbusTcpClient.read_holding_registers).parameters
    else "slave"
)

# Many devices have one session, and close any further one at once.
_OTHER_MASTER = "another master may hold its only session"


class StrictConnection:
    """Exchanges one request at a time with an endpoint; see `StrictClient` for when it is closed.

    `method` and its arguments are those of pymodbus's client without the unit; what comes back is the
    checked PDU. Times in seconds. `sent_at` is the monotonic time at which the last request left.
    """

    def __init__(
        self, endpoint: Endpoint, timeout_s: float, connect_timeout_s: float, min_gap_s: float
    ) -> None:
        self.endpoint = endpoint
        self.sent_at: float | None = None
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._line = endpoint.line
        self._gap_s = max(min_gap_s, self._line.silence_s if self._line else 0.0)
        self._check = endpoint.check
        self._lock = asyncio.Lock()
        self._client: Any = None
        self._request = b""
        self._received = b""
        self._answer: asyncio.Future[bytes] | None = None
        # Monotonic times: the last exchange, and when an RTU line can be trusted again.
        self._active_at = 0.0
        self._trusted_at = 0.0

    @property
    def is_open(self) -> bool:
        """True while a connection is open and has not been found faulty."""
        return self._client is not None

    async def close(self) -> None:
        """Close the connection; a later request opens a new one."""
        async with self._lock:
            self._drop()

    async def exchange(self, method: str, unit: int, writing: bool, *args: Any, **kwargs: Any) -> bytes:
        """Send one request and return the checked PDU of its answer; raises only `ModbusError`."""
        async with self._lock:
            client = await self._ready()
            kwargs[_UNIT_ARGUMENT] = unit
            try:
                return await self._await_answer(_call(getattr(client, method), args, kwargs), unit, writing)
            except DeviceExceptionError:
                raise
            except BaseException:
                self._distrust()
                raise
            finally:
                self._active_at = time.monotonic()

    async def _await_answer(self, sending: Coroutine[Any, Any, None], unit: int, writing: bool) -> bytes:
        where = f"unit {unit} at {self.endpoint}"
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
                raise ConnectionFailedError(
                    f"{where}: connection lost before the request left ({_OTHER_MASTER})"
                ) from None
            raise NoAnswerError(f"{where} closed the connection ({_OTHER_MASTER})", writing=writing) from None
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

    async def broadcast(self, method: str, address: int, value: Any) -> None:
        """Send one write to unit 0 and wait for nothing but that it has left."""
        async with self._lock:
            client = await self._ready()
            self._request = b""
            sending = _call(
                getattr(client, method), (address, value), {_UNIT_ARGUMENT: 0, "no_response_expected": True}
            )
            try:
                await sending
                if self._line:
                    # Also what lets the bytes leave the serial port's buffer before it may be closed.
                    transmission_s = len(self._request) * self._line.character_s
                    await asyncio.sleep(transmission_s + BROADCAST_TURNAROUND_S)
            except Exception:
                self._drop()
                raise ConnectionFailedError(
                    f"{self.endpoint}: connection lost before the broadcast left"
                ) from None
            finally:
                self._active_at = time.monotonic()

    async def _ready(self) -> Any:
        """Return an open connection on which the gap between frames has passed in silence."""
        for _ in range(2):
            client = self._client or await self._connect()
            await self._silence()
            # A connection that was closed, or that sent unasked, in the pause is not used.
            if self._client is client:
                return client
        raise ConnectionFailedError(
            f"{self.endpoint} closes each connection or sends without being asked ({_OTHER_MASTER})"
        )

    async def _silence(self) -> None:
        deadline = time.monotonic() + 3 * self._timeout_s + self._gap_s
        while (pause := max(self._active_at + self._gap_s, self._trusted_at) - time.monotonic()) > 0:
            if time.monotonic() > deadline:
                self._drop()
                raise ConnectionFailedError(f"{self.endpoint}: the line does not fall silent")
            await asyncio.sleep(pause)

    async def _connect(self) -> Any:
        # Longer than ours: this class alone decides when a wait ends.
        longer_s = self._timeout_s + self._connect_timeout_s
        client = self.endpoint.pymodbus_client(
            longer_s, self._trace_packet, lambda up: None if up else self._lost(client)
        )
        # pymodbus only carries the bytes. Its own reading would hunt for a frame in noise, take an echo for
        # an answer, and (3.12) forget the first part of a frame that comes in pieces.
        client.ctx.data_received = self._receive
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                connected = await client.connect()
        except TimeoutError:
            client.close()
            raise ConnectionFailedError(
                f"{self.endpoint}: no connection in {self._connect_timeout_s:g} s"
            ) from None
        except (termios.error, ValueError) as error:
            client.close()
            raise ConnectionFailedError(
                f"{self.endpoint} does not take the settings {self._line}: {error}"
            ) from None
        except BaseException:
            client.close()
            raise
        if not connected:
            client.close()
            raise ConnectionFailedError(self.endpoint.no_connection)
        self._client = client
        if self._line:
            self._active_at = time.monotonic()
        return client

    def _drop(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            client.close()

    def _distrust(self) -> None:
        self._drop()
        if self._line:
            self._trusted_at = time.monotonic() + self._timeout_s

    def _trace_packet(self, sending: bool, data: bytes) -> bytes:
        if sending:
            self._request = data
            self._received = b""
            self.sent_at = time.monotonic()
        return data

    def _receive(self, data: bytes) -> None:
        answer = self._answer
        if answer is None or answer.done() or not self._request:
            self._unasked()
            return
        self._received += data
        try:
            pdu = self._check(self._request, self._received)
        except ModbusError as error:
            answer.set_exception(error)
        else:
            if pdu is not None:
                answer.set_result(pdu)

    def _unasked(self) -> None:
        """Bytes that nobody asked for: whatever comes next could be one answer late."""
        if self._trusted_at > time.monotonic():
            # Just what the wait is for: it starts anew.
            self._trusted_at = time.monotonic() + self._timeout_s
        else:
            self._distrust()

    def _lost(self, client: Any) -> None:
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
