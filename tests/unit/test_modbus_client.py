"""StrictClient against a real pymodbus server and against answers no sane device would give."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import struct
import time
from typing import Any

import pytest
from modbus_servers import Answer, mbpoll, pymodbus_server, raw_server, run

from stationkeeper.modbus.client import StrictClient, Table
from stationkeeper.modbus.errors import (
    AnswerMismatchError,
    ConnectionFailedError,
    DeviceExceptionError,
    ModbusError,
    NoAnswerError,
    RequestError,
)
from stationkeeper.modbus.outcome import Outcome


def good_read(request: bytes) -> bytes:
    count = struct.unpack(">H", request[10:12])[0]
    body = request[6:8] + bytes([count * 2]) + bytes(count * 2)
    return request[0:4] + struct.pack(">H", len(body)) + body


def good_write(request: bytes) -> bytes:
    return request[0:4] + b"\x00\x06" + request[6:12]


def test_reads_and_writes_a_pymodbus_server() -> None:
    async def test() -> None:
        async with pymodbus_server() as port:
            client = StrictClient("127.0.0.1", port)
            assert await client.read(1, Table.HOLDING, 5, 3) == [5, 6, 7]
            assert await client.read(1, "input", 0, 125 - 25) == list(range(1000, 1100))
            await client.write(1, 10, [0xFFFF])
            await client.write(1, 11, [1, 2, 3])
            await client.write(1, 20, [7], function=16)
            await client.mask_write(1, 18, 0xFFF0, 0x0005)
            await client.write_coils(1, 20, [1])
            await client.write_coils(1, 21, [0], function=15)
            await client.write_coils(1, 30, [1, 0, 1, 0, 0, 0, 0, 0, 1, 1])
            assert await client.read(1, Table.HOLDING, 9, 6) == [9, 0xFFFF, 1, 2, 3, 14]
            assert await client.read(1, Table.COIL, 30, 10) == [1, 0, 1, 0, 0, 0, 0, 0, 1, 1]
            await client.close()
            where = ("-m", "tcp", "-p", str(port), "-a", "1")
            registers = await asyncio.to_thread(mbpoll, *where, "-r", "10", "-c", "11", "127.0.0.1")
            assert [registers[n] & 0xFFFF for n in (10, 11, 12, 13, 18, 20)] == [0xFFFF, 1, 2, 3, 0x15, 7]
            coils = await asyncio.to_thread(mbpoll, *where, "-t", "0", "-r", "20", "-c", "20", "127.0.0.1")
            assert [n for n, value in coils.items() if value] == [20, 30, 32, 38, 39]

    run(test)


def test_returns_as_many_bits_as_asked_in_wire_order() -> None:
    async def test() -> None:
        async with pymodbus_server() as port:
            client = StrictClient("127.0.0.1", port)
            assert await client.read(1, Table.COIL, 0, 10) == [1, 0, 0, 0, 0, 0, 0, 0, 1, 1]
            assert await client.read(1, Table.DISCRETE, 8, 3) == [1, 1, 0]
            await client.close()

    run(test)


def test_an_exception_is_rejected_and_keeps_the_connection() -> None:
    async def test() -> None:
        async with pymodbus_server() as port:
            client = StrictClient("127.0.0.1", port)
            with pytest.raises(DeviceExceptionError, match="illegal data address") as caught:
                await client.write(1, 5000, [1])
            assert (caught.value.code, caught.value.outcome) == (2, Outcome.REJECTED)
            assert client.connected
            await client.close()

    run(test)


@pytest.mark.parametrize(
    ("code", "writing", "outcome"),
    [
        (4, True, Outcome.REJECTED),
        (5, True, Outcome.ACCEPTED_UNVERIFIED),
        (6, True, Outcome.REJECTED),
        (10, True, Outcome.UNREACHABLE),
        (11, True, Outcome.UNKNOWN),
        (11, False, Outcome.UNREACHABLE),
        (200, False, Outcome.REJECTED),
    ],
)
def test_outcome_of_each_exception(code: int, writing: bool, outcome: Outcome) -> None:
    async def test() -> None:
        def refuse(request: bytes) -> bytes:
            return request[0:4] + b"\x00\x03" + request[6:7] + bytes([request[7] | 0x80, code])

        async with raw_server(refuse) as (port, _):
            client = StrictClient("127.0.0.1", port)
            with pytest.raises(DeviceExceptionError) as caught:
                await (client.write(1, 0, [1]) if writing else client.read(1, Table.INPUT, 0, 1))
            assert caught.value.outcome is outcome
            await client.close()

    run(test)


@pytest.mark.parametrize(
    ("unit", "address", "words"),
    [
        (0, 0, [1]),
        (248, 0, [1]),
        (1, -1, [1]),
        (1, 65535, [1, 2]),
        (1, 0, []),
        (1, 0, [0] * 124),
        (1, 0, [65536]),
    ],
)
def test_a_wrong_request_is_refused_before_a_socket_is_opened(
    unit: int, address: int, words: list[int]
) -> None:
    async def test() -> None:
        # Nothing listens there: had it tried to connect, the error would be another one.
        client = StrictClient("127.0.0.1", 1)
        with pytest.raises(RequestError) as caught:
            await client.write(unit, address, words)
        assert caught.value.outcome is Outcome.REJECTED

    run(test)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("write", {"address": 0, "words": [1], "function": 5}, "function 5 does not write this"),
        ("write", {"address": 0, "words": [1, 2], "function": 6}, "function 6 writes one value, not 2"),
        ("write", {"address": 0, "words": [True]}, "not 16-bit"),
        ("write", {"address": 0, "words": [1.5]}, "not 16-bit"),
        ("write_coils", {"address": 0, "bits": [1], "function": 6}, "function 6 does not write this"),
        ("write_coils", {"address": 0, "bits": [1, 0], "function": 5}, "function 5 writes one value"),
        ("write_coils", {"address": 0, "bits": [2]}, "coils are 0 or 1"),
        ("write_coils", {"address": 0, "bits": []}, "1 to 1968"),
        ("write_coils", {"address": 0, "bits": [0] * 1969}, "1 to 1968"),
        ("write_coils", {"address": 65535, "bits": [0, 1]}, "not within 0 to 65535"),
        ("mask_write", {"address": 65536, "and_mask": 0, "or_mask": 0}, "not within 0 to 65535"),
        ("mask_write", {"address": 0, "and_mask": 0x10000, "or_mask": 0}, "not 16-bit"),
        ("mask_write", {"address": 0, "and_mask": 0, "or_mask": -1}, "not 16-bit"),
        ("read", {"table": "holdings", "address": 0, "count": 1}, "table is one of coil, discrete"),
        ("read", {"table": "coil", "address": 0, "count": 2001}, "1 to 2000"),
    ],
)
def test_what_a_function_cannot_do_is_refused_before_a_socket_is_opened(
    method: str, arguments: dict[str, Any], message: str
) -> None:
    async def test() -> None:
        with pytest.raises(RequestError, match=message):
            await getattr(StrictClient("127.0.0.1", 1), method)(1, **arguments)

    run(test)


def test_broadcast_reads_are_refused_too() -> None:
    async def test() -> None:
        with pytest.raises(RequestError, match="broadcast"):
            await StrictClient("127.0.0.1", 1).read(0, Table.INPUT, 0, 1)

    run(test)


@pytest.mark.criterion("MW-15")
def test_nobody_listening_is_unreachable_and_may_be_another_master() -> None:
    async def test() -> None:
        with pytest.raises(ConnectionFailedError, match="another master may hold its only session") as caught:
            await StrictClient("127.0.0.1", 1, connect_timeout_s=1).write(1, 0, [1])
        assert caught.value.outcome is Outcome.UNREACHABLE

    run(test)


@pytest.mark.criterion("MW-8")
def test_silence_after_a_write_is_unknown_and_sends_nothing_twice() -> None:
    async def test() -> None:
        async with raw_server(lambda request: b"") as (port, requests):
            client = StrictClient("127.0.0.1", port, timeout_s=0.2)
            with pytest.raises(NoAnswerError) as caught:
                await client.write(1, 0, [1])
            assert caught.value.outcome is Outcome.UNKNOWN
            assert not client.connected
            with pytest.raises(NoAnswerError) as caught:
                await client.read(1, Table.INPUT, 0, 1)
            assert caught.value.outcome is Outcome.UNREACHABLE
            await asyncio.sleep(0.3)
            assert len(requests) == 2

    run(test)


@pytest.mark.criterion("MW-15")
def test_a_closed_connection_is_noticed_at_once_and_may_be_another_master() -> None:
    async def test() -> None:
        async with raw_server(lambda request: None) as (port, _):
            # Longer than a test may take: it ends because the connection does.
            client = StrictClient("127.0.0.1", port, timeout_s=600)
            with pytest.raises(NoAnswerError, match=r"closed .*another master may hold") as caught:
                await client.write(1, 0, [1, 2])
            assert caught.value.outcome is Outcome.UNKNOWN

    run(test)


def test_a_connection_closed_between_requests_is_reopened() -> None:
    async def test() -> None:
        async with raw_server(good_read) as (port, _):
            client = StrictClient("127.0.0.1", port)
            await client.read(1, Table.INPUT, 0, 2)
            await client.close()
            assert await client.read(1, Table.INPUT, 0, 2) == [0, 0]
            await client.close()

    run(test)


@pytest.mark.criterion("MW-8", "MW-9")
def test_a_late_answer_never_becomes_the_next_ones() -> None:
    async def test() -> None:
        async with raw_server(lambda request: good_read(request) * 2) as (port, requests):
            client = StrictClient("127.0.0.1", port)
            with pytest.raises(AnswerMismatchError, match="bytes follow"):
                await client.read(1, Table.INPUT, 0, 2)
            assert not client.connected
        assert len(requests) == 1

    run(test)


MANGLERS: dict[str, Answer] = {
    "transaction": lambda r: bytes([r[0], r[1] ^ 1]) + good_read(r)[2:],
    "transaction 0": lambda r: b"\x00\x00" + good_read(r)[2:],
    "protocol": lambda r: r[0:2] + b"\x00\x01" + good_read(r)[4:],
    "length": lambda r: good_read(r)[:4] + b"\x01\x00" + good_read(r)[6:],
    "unit": lambda r: good_read(r)[:6] + b"\x02" + good_read(r)[7:],
    "unit 0": lambda r: good_read(r)[:6] + b"\x00" + good_read(r)[7:],
    "function": lambda r: good_read(r)[:7] + b"\x03" + good_read(r)[8:],
    "byte count": lambda r: good_read(r)[:8] + b"\x02" + good_read(r)[9:],
    "one register less": lambda r: good_read(r[:10] + b"\x00\x01"),
    "long exception": lambda r: r[0:4] + b"\x00\x04" + r[6:7] + bytes([r[7] | 0x80, 2, 0]),
}


@pytest.mark.criterion("MW-9")
@pytest.mark.parametrize("name", MANGLERS)
def test_a_read_answer_that_does_not_match_is_refused_at_once(name: str) -> None:
    async def test() -> None:
        async with raw_server(MANGLERS[name]) as (port, _):
            client = StrictClient("127.0.0.1", port, timeout_s=600)
            with pytest.raises(AnswerMismatchError) as caught:
                await client.read(1, Table.INPUT, 0, 2)
            assert caught.value.outcome is Outcome.UNKNOWN
            assert not client.connected

    run(test)


@pytest.mark.criterion("MW-9")
@pytest.mark.parametrize("position", [8, 9, 10, 11])
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("write", (3, [7])),
        ("write", (3, [7, 8])),
        ("write_coils", (3, [1])),
        ("write_coils", (3, [1, 0])),
        ("mask_write", (3, 0xFF00, 0x0012)),
    ],
)
def test_a_write_with_a_wrong_echo_is_unknown(method: str, arguments: tuple[Any, ...], position: int) -> None:
    async def test() -> None:
        def mangle(request: bytes) -> bytes:
            answer = bytearray(request if request[7] == 22 else good_write(request))
            answer[position] ^= 1
            return bytes(answer)

        async with raw_server(mangle) as (port, _):
            client = StrictClient("127.0.0.1", port)
            with pytest.raises(AnswerMismatchError) as caught:
                await getattr(client, method)(1, *arguments)
            assert caught.value.outcome is Outcome.UNKNOWN
            assert not client.connected

    run(test)


@pytest.mark.criterion("MW-15")
def test_unit_255_is_a_direct_tcp_device() -> None:
    async def test() -> None:
        async with raw_server(good_read) as (port, requests):
            client = StrictClient("127.0.0.1", port)
            assert await client.read(255, Table.INPUT, 0, 2) == [0, 0]
            assert requests[0][6] == 255
            await client.close()

    run(test)


def test_an_answer_in_small_pieces_is_one_answer() -> None:
    async def test() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = await reader.readexactly(12)
            for byte in good_read(request):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.002)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client = StrictClient("127.0.0.1", server.sockets[0].getsockname()[1])
        assert await client.read(1, Table.INPUT, 0, 2) == [0, 0]
        await client.close()
        server.close()

    run(test)


def test_requests_of_several_tasks_do_not_mix_and_keep_the_gap() -> None:
    async def test() -> None:
        times: list[float] = []

        def answer(request: bytes) -> bytes:
            times.append(time.monotonic())
            return good_read(request)

        async with raw_server(answer) as (port, _):
            client = StrictClient("127.0.0.1", port, min_gap_s=0.05)
            answers = await asyncio.gather(*(client.read(1, Table.INPUT, 0, n) for n in (1, 2, 3)))
            assert [len(words) for words in answers] == [1, 2, 3]
            assert min(b - a for a, b in itertools.pairwise(times)) >= 0.05
            await client.close()

    run(test)


def test_malformed_answers_raise_only_modbus_errors() -> None:
    """Fuzz: random bytes, and good answers with bytes changed, cut or added."""
    random_ = random.Random(20)

    def mangle(request: bytes) -> bytes:
        if random_.random() < 0.3:
            return random_.randbytes(random_.randint(1, 300))
        answer = bytearray(good_write(request) if request[7] in (6, 16) else good_read(request))
        for _ in range(random_.randint(1, 3)):
            match random_.randrange(3):
                case 0:
                    answer[random_.randrange(len(answer))] = random_.randrange(256)
                case 1:
                    answer = answer[: random_.randint(1, len(answer))]
                case _:
                    answer += random_.randbytes(random_.randint(1, 4))
        return bytes(answer)

    async def test() -> None:
        problems: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: problems.append(context))
        async with raw_server(mangle) as (port, _):

            async def hammer() -> None:
                client = StrictClient("127.0.0.1", port, timeout_s=0.05)
                for _ in range(40):
                    with contextlib.suppress(ModbusError):
                        if random_.random() < 0.5:
                            assert len(await client.read(1, Table.INPUT, 0, 4)) == 4
                        else:
                            await client.write(1, 4, [1] * random_.randint(1, 3))
                await client.close()

            await asyncio.gather(*(hammer() for _ in range(8)))
        assert problems == []

    run(test)
