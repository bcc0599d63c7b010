"""Sockets and serial lines of a simulated server; connections can be limited, refused and dropped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
import tty
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from stationkeeper.simulator.exchange import Reply
from stationkeeper.simulator.wire import Frame, Transport, build_frame, read_frame

# Closing then resets, so that neither side keeps the address busy.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_PATIENCE_S = 10


@dataclass(eq=False)
class _Place:
    """A TCP address that is listened on, or was until connections were refused."""

    host: str
    port: int
    transport: Transport
    listening: socket.socket | None = None


@dataclass(eq=False)
class _Connection:
    """One client, or a serial line."""

    client: str
    transport: Transport
    reader: asyncio.StreamReader
    send: Callable[[bytes], None]
    close: Callable[[], None]
    late: bytes = field(default=b"")


class Listeners:
    """Takes requests from all transports to `exchange` (client, unit, PDU) and brings back the answers."""

    def __init__(self, exchange: Callable[[str, int, bytes], Reply]) -> None:
        self._exchange = exchange
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._places: list[_Place] = []
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._limit: int | None = None
        self._refusing = False

    async def start(self, host: str, port: int, transport: Transport) -> int:
        """Listen and return the port. Raises `OSError`."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        place = _Place(host, port, transport)
        self._listen(place)
        self._places.append(place)
        return place.port

    async def start_serial(self) -> str:
        """Open a pseudo-terminal and return the path of its far side."""
        loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._loop = loop
        ours, theirs = os.openpty()
        tty.setraw(theirs)
        os.set_blocking(ours, False)
        path = os.ttyname(theirs)
        reader = asyncio.StreamReader()

        def close() -> None:
            loop.remove_reader(ours)
            # Theirs was kept open, so that the line outlives a client that closes it.
            os.close(ours)
            os.close(theirs)

        loop.add_reader(ours, lambda: reader.feed_data(os.read(ours, 4096)))
        connection = _Connection(
            f"serial:{path}", "serial", reader, lambda data: _send_on_line(ours, data), close
        )
        self._connections.add(connection)
        self._run(self._serve(connection))
        return path

    async def close(self) -> None:
        """Stop listening and close all connections and lines."""
        for place in self._places:
            self._deafen(place)
        self._places.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def on_loop(self, act: Callable[[], None]) -> None:
        """Do `act` in the thread that serves, and return when it is done."""
        loop = self._loop
        if loop is None or not loop.is_running() or threading.get_ident() == self._thread:
            act()
            return
        done = threading.Event()

        def do() -> None:
            try:
                act()
            finally:
                done.set()

        loop.call_soon_threadsafe(do)
        if not done.wait(_PATIENCE_S):
            raise TimeoutError("the simulator's loop does not answer")

    def restrict(self, *, limit: int | None, refuse: bool) -> None:
        """Keep at most `limit` TCP connections; with `refuse`, have none and listen nowhere."""
        self._limit = limit
        if refuse == self._refusing:
            return
        self._refusing = refuse
        if refuse:
            self.drop_connections()
        for place in self._places:
            if refuse:
                self._deafen(place)
            else:
                self._listen(place)

    def drop_connections(self) -> None:
        """Close every TCP connection; serial lines stay."""
        for connection in list(self._connections):
            if connection.transport != "serial":
                connection.close()

    def _listen(self, place: _Place) -> None:
        assert self._loop is not None
        family, _, _, _, address = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.create_server(address, family=family)
        listening.setblocking(False)
        place.listening, place.port = listening, listening.getsockname()[1]
        self._loop.add_reader(listening, self._accept, place)

    def _deafen(self, place: _Place) -> None:
        if place.listening is not None and self._loop is not None:
            self._loop.remove_reader(place.listening)
            place.listening.close()
            place.listening = None

    def _accept(self, place: _Place) -> None:
        assert place.listening is not None
        try:
            accepted, address = place.listening.accept()
        except OSError:
            return  # Gone again before it was taken.
        self._run(self._connected(accepted, "{}:{}".format(*address[:2]), place.transport))

    async def _connected(self, accepted: socket.socket, client: str, transport: Transport) -> None:
        # The end of an earlier connection may be seen in the same turn of the loop: let it be counted first.
        for _ in range(3):
            await asyncio.sleep(0)
        taken = [one for one in self._connections if one.transport != "serial" and not one.reader.at_eof()]
        if self._limit is not None and len(taken) >= self._limit:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            accepted.close()
            return
        reader, writer = await asyncio.open_connection(sock=accepted)
        connection = _Connection(client, transport, reader, writer.write, writer.close)
        self._connections.add(connection)
        await self._serve(connection)

    async def _serve(self, connection: _Connection) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while frame := await read_frame(connection.reader, connection.transport):
                    if not self._answer(connection, frame):
                        break
        finally:
            self._connections.discard(connection)
            connection.close()

    def _answer(self, connection: _Connection, frame: Frame) -> bool:
        """Answer one request, and return whether the connection goes on."""
        late, connection.late = connection.late, b""
        if late:
            connection.send(late)
        reply = self._exchange(connection.client, frame.unit, frame.pdu)
        if reply.pdu is None:
            return True
        answer = Frame(frame.unit, reply.pdu, frame.transaction)
        data = build_frame(answer, connection.transport, reply.fault)
        kind = reply.fault.kind if reply.fault else None
        if kind == "late_answer":
            connection.late = data
        else:
            connection.send(data)
        return kind != "close_mid_frame"

    def _run(self, work: Coroutine[None, None, None]) -> None:
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _send_on_line(descriptor: int, data: bytes) -> None:
    # What nobody takes from a serial line is lost; waiting would silence everybody else.
    with contextlib.suppress(BlockingIOError):
        os.write(descriptor, data)
