"""The client over RTU: on a serial line (a pseudo-terminal) and over TCP."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import termios
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from modbus_servers import (
    Answer,
    Device,
    SerialLine,
    crc,
    mbpoll,
    pymodbus_server,
    raw_server,
    read_rtu,
    run,
    serial_line,
)
from pymodbus.framer import FramerType

from stationkeeper.modbus.client import StrictClient, Table
from stationkeeper.modbus.errors import (
    AnswerMismatchError,
    ConnectionFailedError,
    DeviceExceptionError,
    NoAnswerError,
    RequestError,
)
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.modbus.transports import SerialSettings, Transport, check_gateway_timing

RTU = (Transport.RTU_OVER_TCP, Transport.SERIAL)


def on(line: SerialLine, timeout_s: float = 5, **settings: Any) -> StrictClient:
    # A pseudo-terminal takes no parity.
    settings = {"parity": "N"} | settings
    return StrictClient(line.path, timeout_s=timeout_s, transport="serial", serial=SerialSettings(**settings))


@contextlib.asynccontextmanager
async def rtu_peer(
    transport: Transport, answer: Answer, timeout_s: float = 5
) -> AsyncIterator[tuple[StrictClient, list[bytes]]]:
    """A client, and the requests that its peer has had from it."""
    if transport is Transport.SERIAL:
        async with serial_line(answer) as line:
            client = on(line, timeout_s)
            yield client, line.requests
            await client.close()
    else:
        async with raw_server(answer, rtu=True) as (port, requests):
            client = StrictClient("127.0.0.1", port, timeout_s, transport=transport)
            yield client, requests
            await client.close()


def rtu(unit: int, pdu: bytes) -> bytes:
    return bytes([unit]) + pdu + crc(bytes([unit]) + pdu)


STALE, FRESH = rtu(1, b"\x03\x02\x11\x11"), rtu(1, b"\x03\x02\x22\x22")


@pytest.mark.parametrize("transport", RTU)
def test_every_function_reads_and_writes(transport: Transport) -> None:
    async def test() -> None:
        device = Device()
        async with rtu_peer(transport, device.rtu) as (client, requests):
            await client.write(1, 10, [0xFFFF])
            await client.write(1, 11, [1, 2, 3])
            await client.write(1, 20, [7], function=16)
            await client.mask_write(1, 18, 0xFFF0, 0x0005)
            await client.write_coils(1, 4, [1])
            await client.write_coils(1, 5, [1], function=15)
            await client.write_coils(1, 30, [1, 0, 1, 0, 0, 0, 0, 0, 1, 1])
            assert [request[1] for request in requests] == [6, 16, 16, 22, 5, 15, 15]
            assert await client.read(1, "holding", 9, 12) == [9, 0xFFFF, 1, 2, 3, 14, 15, 16, 17, 0x15, 19, 7]
            assert await client.read(1, "coil", 30, 10) == [1, 0, 1, 0, 0, 0, 0, 0, 1, 1]
            assert await client.read(1, "discrete", 4, 3) == [1, 1, 0]
            assert len(await client.read(1, "input", 0, 100)) == 100

    run(test)


def test_pymodbuss_rtu_server_understands_it() -> None:
    async def test() -> None:
        async with pymodbus_server(FramerType.RTU) as port:
            client = StrictClient("127.0.0.1", port, transport="rtu_over_tcp")
            await client.write(1, 10, [1, 2, 3])
            await client.write_coils(1, 30, [1, 0, 1])
            await client.mask_write(1, 18, 0xFFF0, 0x0005)
            assert await client.read(1, "holding", 9, 5) == [9, 1, 2, 3, 13]
            assert await client.read(1, "coil", 30, 3) == [1, 0, 1]
            with pytest.raises(DeviceExceptionError, match="illegal data address"):
                await client.write(1, 5000, [1])
            assert client.connected
            assert await client.read(1, "holding", 18, 1) == [0x15]
            await client.close()

    run(test)


def test_mbpoll_reads_on_the_serial_line_what_was_written() -> None:
    async def test() -> None:
        async with serial_line(Device().rtu) as line:
            client = on(line)
            await client.write(1, 10, [500, 600])
            await client.close()
            arguments = (
                "-m",
                "rtu",
                "-b",
                "19200",
                "-P",
                "none",
                "-a",
                "1",
                "-r",
                "10",
                "-c",
                "2",
                line.path,
            )
            assert await asyncio.to_thread(mbpoll, *arguments) == {10: 500, 11: 600}

    run(test)


@pytest.mark.criterion("MW-16")
@pytest.mark.parametrize(
    ("settings", "silence_ms"),
    [
        ({"baudrate": 9600}, 4.010),
        ({"baudrate": 9600, "parity": "N"}, 3.646),
        ({"baudrate": 9600, "parity": "N", "stopbits": 2}, 4.010),
        ({"baudrate": 19200}, 2.005),
        ({"baudrate": 19201}, 1.75),
        ({"baudrate": 115200}, 1.75),
    ],
)
def test_the_silence_between_frames_is_3_and_a_half_characters(
    settings: dict[str, Any], silence_ms: float
) -> None:
    assert SerialSettings(**settings).silence_s * 1000 == pytest.approx(silence_ms, abs=0.001)


@pytest.mark.criterion("MW-16")
def test_the_silence_is_kept_before_each_request() -> None:
    async def test() -> None:
        device, times = Device(), []

        def answer(request: bytes) -> bytes:
            times.append(time.monotonic())
            return device.rtu(request)

        async with serial_line(answer) as line:
            settings = SerialSettings(baudrate=300, parity="N")
            client = StrictClient(line.path, transport="serial", serial=settings)
            for _ in range(3):
                await client.read(1, "holding", 0, 1)
            gaps = [b - a for a, b in itertools.pairwise(times)]
            assert settings.silence_s == pytest.approx(0.1167, abs=0.001)
            assert min(gaps) >= settings.silence_s
            await client.close()

    run(test)


@pytest.mark.criterion("MW-16")
@pytest.mark.parametrize("transport", RTU)
def test_a_wrong_crc_is_a_mismatch_and_leaves_a_write_unknown(transport: Transport) -> None:
    async def test() -> None:
        device = Device()
        async with rtu_peer(transport, lambda request: device.rtu(request)[:-1] + b"\x00") as (client, _):
            with pytest.raises(AnswerMismatchError, match="CRC") as caught:
                await client.write(1, 3, [5])
            assert caught.value.outcome is Outcome.UNKNOWN
            assert not client.connected

    run(test)


@pytest.mark.criterion("MW-16")
def test_a_local_echo_is_swallowed() -> None:
    async def test() -> None:
        device = Device()
        async with serial_line(lambda request: request + device.rtu(request)) as line:
            client = on(line, local_echo=True)
            await client.write(1, 3, [5])
            await client.write_coils(1, 3, [1])
            assert await client.read(1, "holding", 2, 3) == [2, 5, 4]
            await client.close()

    run(test)


@pytest.mark.criterion("MW-16")
def test_an_echo_alone_confirms_nothing() -> None:
    """The answer to a single write equals its request: without the option an echo would pass for it."""

    async def test() -> None:
        async with serial_line(lambda request: request) as line:
            client = on(line, timeout_s=0.2, local_echo=True)
            with pytest.raises(NoAnswerError) as caught:
                await client.write(1, 3, [5])
            assert caught.value.outcome is Outcome.UNKNOWN
            await client.close()

    run(test)


@pytest.mark.criterion("MW-16")
def test_an_echo_with_a_wrong_bit_is_a_collision() -> None:
    async def test() -> None:
        device = Device()
        async with serial_line(
            lambda request: request[:3] + bytes([request[3] ^ 1]) + request[4:] + device.rtu(request)
        ) as line:
            client = on(line, local_echo=True)
            with pytest.raises(AnswerMismatchError, match="the line echoed"):
                await client.write(1, 3, [5])

    run(test)


def test_an_answer_in_small_pieces_is_one_answer() -> None:
    async def test() -> None:
        device = Device()
        async with serial_line(lambda _: b"") as line:
            client = on(line)
            reading = asyncio.create_task(client.read(1, "holding", 4, 3))
            while not line.requests and not reading.done():
                await asyncio.sleep(0.001)
            for byte in device.rtu(line.requests[0]):
                line.send(bytes([byte]))
                await asyncio.sleep(0.002)
            assert await reading == [4, 5, 6]
            await client.close()

    run(test)


@pytest.mark.criterion("MW-8")
def test_a_late_answer_on_a_serial_line_is_drained_before_the_next_request() -> None:
    """RTU has no transaction id: the late answer to the same question would pass every other check."""

    async def test() -> None:
        events: list[str] = []

        def answer(_request: bytes) -> bytes:
            events.append("request")
            return FRESH if "late answer" in events else b""

        async with serial_line(answer) as line:
            client = on(line, timeout_s=1)
            with pytest.raises(NoAnswerError):
                await client.read(1, "holding", 0, 1)
            assert not client.connected
            reading = asyncio.create_task(client.read(1, "holding", 0, 1))
            # Much longer than the silence between two frames, shorter than a device may take.
            await asyncio.sleep(0.2)
            events.append("late answer")
            line.send(STALE)
            assert await reading == [0x2222]
            assert events == ["request", "late answer", "request"]
            await client.close()

    run(test)


@pytest.mark.criterion("MW-8")
def test_an_answer_that_a_gateway_sends_to_the_next_connection_is_drained() -> None:
    async def test() -> None:
        callers = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal callers
            callers += 1
            if callers == 1:
                await reader.read()
            else:
                await asyncio.sleep(0.2)
                writer.write(STALE)
                await read_rtu(reader)
                writer.write(FRESH)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client = StrictClient("127.0.0.1", server.sockets[0].getsockname()[1], 1, transport="rtu_over_tcp")
        with pytest.raises(NoAnswerError):
            await client.read(1, "holding", 0, 1)
        assert await client.read(1, "holding", 0, 1) == [0x2222]
        assert callers == 2
        await client.close()
        server.close()

    run(test)


@pytest.mark.criterion("MW-8")
def test_bytes_that_nobody_asked_for_close_the_line_until_it_is_silent() -> None:
    async def test() -> None:
        async with serial_line(lambda _: FRESH) as line:
            client = on(line, timeout_s=0.3)
            await client.read(1, "holding", 0, 1)
            line.send(STALE)
            while client.connected:
                await asyncio.sleep(0.001)
            assert await client.read(1, "holding", 0, 1) == [0x2222]
            assert len(line.requests) == 2
            await client.close()

    run(test)


@pytest.mark.criterion("MW-8")
@pytest.mark.parametrize("transport", RTU)
def test_nothing_is_sent_twice_after_a_time_out(transport: Transport) -> None:
    async def test() -> None:
        async with rtu_peer(transport, lambda _: b"", timeout_s=0.2) as (client, requests):
            with pytest.raises(NoAnswerError) as caught:
                await client.write(1, 0, [1])
            assert caught.value.outcome is Outcome.UNKNOWN
            with pytest.raises(NoAnswerError) as caught:
                await client.read(1, "input", 0, 1)
            assert caught.value.outcome is Outcome.UNREACHABLE
            await asyncio.sleep(0.3)
            assert [request[1] for request in requests] == [6, 4]

    run(test)


@pytest.mark.criterion("MW-8")
def test_a_line_that_never_falls_silent_is_not_written_to() -> None:
    async def test() -> None:
        async with serial_line(lambda _: b"") as line:
            client = on(line, timeout_s=0.2)
            with pytest.raises(NoAnswerError):
                await client.write(1, 0, [1])

            async def babble() -> None:
                while True:
                    line.send(b"\x55")
                    await asyncio.sleep(0.01)

            babbling = asyncio.create_task(babble())
            with pytest.raises(ConnectionFailedError, match="does not fall silent") as caught:
                await client.write(1, 0, [1])
            babbling.cancel()
            assert caught.value.outcome is Outcome.UNREACHABLE
            assert len(line.requests) == 1

    run(test)


@pytest.mark.criterion("MW-15")
@pytest.mark.parametrize("transport", Transport)
def test_a_broadcast_reaches_the_device_and_waits_for_no_answer(transport: Transport) -> None:
    async def test() -> None:
        device = Device()
        async with contextlib.AsyncExitStack() as stack:
            if transport is Transport.TCP:
                port, requests = await stack.enter_async_context(raw_server(device.tcp))
                client = StrictClient("127.0.0.1", port, 5)
            else:
                client, requests = await stack.enter_async_context(rtu_peer(transport, device.rtu))
            await client.write(0, 7, [70], broadcast=True)
            await client.write(0, 8, [80, 90], broadcast=True)
            assert await client.read(1, "holding", 6, 4) == [6, 70, 80, 90]
            assert [request[6 if transport is Transport.TCP else 0] for request in requests] == [0, 0, 1]
            await client.close()

    run(test)


@pytest.mark.criterion("MW-15")
def test_a_device_that_answers_a_broadcast_does_not_answer_the_next_request_with_it() -> None:
    async def test() -> None:
        device = Device()

        def answer(request: bytes) -> bytes:
            return device.tcp(request[:6] + b"\x01" + request[7:])

        async with raw_server(answer) as (port, _):
            client = StrictClient("127.0.0.1", port, 5)
            await client.write(0, 7, [70], broadcast=True)
            with contextlib.suppress(AnswerMismatchError):
                assert await client.read(1, "holding", 7, 1) == [70]
            assert await client.read(1, "holding", 7, 1) == [70]
            await client.close()

    run(test)


@pytest.mark.criterion("MW-15")
@pytest.mark.parametrize(
    ("transport", "unit", "broadcast", "message"),
    [
        ("tcp", 0, False, "0 is broadcast"),
        ("tcp", 248, False, "1 to 247"),
        ("tcp", 254, False, "1 to 247"),
        ("tcp", 256, False, "1 to 247"),
        ("tcp", 1, True, "goes to unit 0"),
        ("rtu_over_tcp", 0, False, "0 is broadcast"),
        ("rtu_over_tcp", 255, False, "255 for a direct TCP device"),
        ("serial", 255, False, "255 for a direct TCP device"),
    ],
)
def test_a_unit_that_cannot_be_meant_is_refused(
    transport: str, unit: int, broadcast: bool, message: str
) -> None:
    async def test() -> None:
        # Nothing is there: had it tried to connect, the error would be another one.
        client = StrictClient("/nowhere", 1, transport=transport)
        with pytest.raises(RequestError, match=message):
            await client.write(unit, 0, [1], broadcast=broadcast)
        if not broadcast:
            with pytest.raises(RequestError, match=message):
                await client.write_coils(unit, 0, [1])
            with pytest.raises(RequestError, match=message):
                await client.mask_write(unit, 0, 0, 0)
            with pytest.raises(RequestError, match=message):
                await client.read(unit, Table.INPUT, 0, 1)

    run(test)


@pytest.mark.criterion("MW-15")
@pytest.mark.parametrize(
    ("timeout_s", "gateway_s", "retries", "enough"),
    [(3.1, 1, 2, True), (3, 1, 2, False), (1, 1, 0, False), (1.1, 1, 0, True), (5, 2, 3, False)],
)
def test_a_client_waits_longer_than_its_gateway_tries(
    timeout_s: float, gateway_s: float, retries: int, enough: bool
) -> None:
    if enough:
        check_gateway_timing(timeout_s, gateway_s, retries)
    else:
        longest = gateway_s * (1 + retries)
        with pytest.raises(RequestError, match=f"set more than {longest:g} s here"):
            check_gateway_timing(timeout_s, gateway_s, retries)


@pytest.mark.criterion("MW-15")
def test_a_line_that_another_master_holds_is_said_to_be_so() -> None:
    async def test() -> None:
        async with serial_line(Device().rtu) as line:
            first, second = on(line), on(line)
            await first.read(1, "holding", 0, 1)
            with pytest.raises(ConnectionFailedError, match="another master holds it") as caught:
                await second.write(1, 0, [1])
            assert caught.value.outcome is Outcome.UNREACHABLE
            await first.close()
            await second.write(1, 0, [1])
            await second.close()

    run(test)


@pytest.mark.criterion("MW-15")
@pytest.mark.parametrize("transport", ["tcp", "rtu_over_tcp"])
def test_a_gateway_that_hangs_up_at_once_is_said_to_have_another_master(transport: str) -> None:
    async def test() -> None:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        client = StrictClient("127.0.0.1", server.sockets[0].getsockname()[1], 600, transport=transport)
        with pytest.raises((ConnectionFailedError, NoAnswerError), match="another master may hold"):
            await client.write(1, 0, [1])
        assert not client.connected
        server.close()

    run(test)


def test_a_device_that_is_unplugged_is_noticed() -> None:
    async def test() -> None:
        with pytest.raises(ConnectionFailedError, match="/dev/ttyNone does not open"):
            await StrictClient("/dev/ttyNone", transport="serial").read(1, "holding", 0, 1)

    run(test)


def test_an_adapter_that_refuses_the_settings_is_said_to_do_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise termios.error(22, "Invalid argument")

    async def test() -> None:
        async with serial_line(lambda _: b"") as line:
            monkeypatch.setattr(termios, "tcsetattr", refuse)
            with pytest.raises(ConnectionFailedError, match=r"does not take the settings .*parity='N'"):
                await on(line).read(1, "holding", 0, 1)

    run(test)


def test_without_pyserial_a_serial_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "serial")

    async def test() -> None:
        with pytest.raises(RequestError, match="install pyserial"):
            await StrictClient("/dev/ttyS0", transport="serial").read(1, "holding", 0, 1)

    run(test)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baudrate": 0}, "baudrate"),
        ({"parity": "even"}, "parity is N, E or O"),
        ({"stopbits": 3}, "stop bits"),
    ],
)
def test_a_line_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SerialSettings(**settings)


def test_transport_and_settings_must_fit() -> None:
    with pytest.raises(RequestError, match="transport is one of tcp, rtu_over_tcp, serial"):
        StrictClient("h", transport="udp")
    with pytest.raises(RequestError, match="not tcp"):
        StrictClient("h", serial=SerialSettings())
