"""Faults on the wire: what a bare socket receives, and what the strict client makes of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from simulator_rig import READ_COMMAND, READ_SETPOINT, Bare, ask, power, serve, station, value

from stationkeeper.modbus.client import StrictClient, Table
from stationkeeper.modbus.errors import (
    AnswerMismatchError,
    ConnectionFailedError,
    DeviceExceptionError,
    NoAnswerError,
)
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.modbus.transports import SerialSettings
from stationkeeper.simulator.faults import Fault
from stationkeeper.simulator.server import SimulatorServer
from stationkeeper.simulator.wire import crc16

WRITTEN = "1000000002"
SETPOINT_0 = "040400000000"


def test_a_late_answer_arrives_when_the_next_request_does() -> None:
    async def scenario(server: SimulatorServer, port: int) -> None:
        bare = await Bare.to(port)
        server.faults.set(Fault(kind="late_answer", functions={4}, count=1))
        bare.send(1, READ_SETPOINT)
        bare.send(2, READ_COMMAND)
        assert await bare.answer() == (1, 1, SETPOINT_0)
        assert await bare.answer() == (2, 1, "030400000000")

    log = serve(scenario).recent()
    assert [entry.get("fault") for entry in log] == ["late_answer", None]
    assert (log[0]["lost_words"], "words" in log[0]) == ([0, 0], False)


def test_a_stale_answer_is_given_to_the_next_request_of_another_connection() -> None:
    async def scenario(server: SimulatorServer, port: int) -> None:
        first, second = await Bare.to(port), await Bare.to(port)
        server.faults.set(Fault(kind="stale_answer", functions={4}, count=1))
        first.send(1, READ_SETPOINT)
        # The second request leaves only when the first one's answer is kept.
        while not server.recent():
            await asyncio.sleep(0)
        assert await second.ask(9, READ_COMMAND) == (9, 1, SETPOINT_0)
        assert await second.ask(10, READ_COMMAND) == (10, 1, "030400000000")

    assert [entry.get("fault") for entry in serve(scenario).recent()] == [
        "stale_answer",
        "stale_answer",
        None,
    ]


def test_a_dropped_answer_has_been_applied_and_a_lost_request_has_not() -> None:
    async def scenario(server: SimulatorServer, port: int) -> None:
        bare = await Bare.to(port)
        server.faults.set(Fault(kind="drop", functions={16}, count=1))
        server.faults.set(Fault(kind="lost_request", functions={16}, after=1, count=1))
        bare.send(1, power(25))
        assert await bare.ask(2, READ_SETPOINT) == (2, 1, "0404000061a8")
        bare.send(3, power(50))
        assert await bare.ask(4, READ_SETPOINT) == (4, 1, "0404000061a8")

    log = serve(scenario).recent()
    assert [(entry["function"], entry.get("fault")) for entry in log] == [
        (16, "drop"), (4, None), (16, "lost_request"), (4, None),
    ]  # fmt: skip
    assert log[2]["written"] == [0, 50000]


@pytest.mark.parametrize(
    ("kind", "request_pdu", "answer"),
    [
        ("wrong_unit", READ_SETPOINT, (7, 2, SETPOINT_0)),
        ("wrong_transaction", READ_SETPOINT, (8, 1, SETPOINT_0)),
        ("wrong_echo", power(25), (7, 1, "1000000003")),
        ("short_count", READ_SETPOINT, (7, 1, "04020000")),
        ("acknowledge", power(25), (7, 1, "9005")),
        ("gateway_silent", power(25), (7, 1, "900b")),
        ("busy", READ_SETPOINT, (7, 1, "8406")),
    ],
)
def test_spoiled_answers(kind: str, request_pdu: str, answer: tuple[int, int, str]) -> None:
    async def scenario(server: SimulatorServer, port: int) -> None:
        bare = await Bare.to(port)
        server.faults.set(Fault(kind=kind, unit=1, count=1))
        assert await bare.ask(7, request_pdu) == answer
        assert (await bare.ask(8, READ_SETPOINT))[:2] == (8, 1)

    served = serve(scenario)
    assert served.recent()[0]["fault"] == kind
    executed = request_pdu == power(25) and kind != "gateway_silent"
    assert value(served, READ_SETPOINT) == (25 if executed else 0)


@pytest.mark.parametrize("code", range(1, 12))
def test_any_exception_on_demand(code: int) -> None:
    served = SimulatorServer(station().devices)
    served.faults.set(Fault(kind="exception", code=code, count=1))
    assert ask(served, power(25)) == f"90{code:02x}"
    assert served.recent()[0]["exception"] == code
    assert value(served, READ_SETPOINT) == 0


def test_a_connection_closed_in_mid_frame() -> None:
    async def scenario(server: SimulatorServer, port: int) -> None:
        bare = await Bare.to(port)
        server.faults.set(Fault(kind="close_mid_frame", count=1))
        bare.send(1, READ_SETPOINT)
        assert len(await bare.reader.read()) == 6

    serve(scenario)


def test_a_black_hole_takes_everything_and_answers_nothing() -> None:
    async def scenario(server: SimulatorServer, port: int) -> None:
        bare = await Bare.to(port)
        number = server.faults.set(Fault(kind="black_hole"))
        bare.send(1, power(25))
        bare.send(2, READ_SETPOINT)
        while len(server.recent()) < 2:
            await asyncio.sleep(0)
        server.faults.clear(number=number)
        assert await bare.ask(3, READ_SETPOINT) == (3, 1, SETPOINT_0)

    assert [entry.get("fault") for entry in serve(scenario).recent()] == ["black_hole", "black_hole", None]


def test_connections_beyond_the_limit_are_closed() -> None:
    async def scenario(server: SimulatorServer, port: int) -> None:
        server.faults.set(Fault(kind="connection_limit"))
        first = await Bare.to(port)
        await first.ask(1, READ_SETPOINT)
        assert await (await Bare.to(port)).ended()
        first.writer.close()
        await first.writer.wait_closed()
        assert (await (await Bare.to(port)).ask(2, READ_SETPOINT))[0] == 2
        server.faults.clear()
        assert (await (await Bare.to(port)).ask(3, READ_SETPOINT))[0] == 3

    serve(scenario)


def test_refused_connections_come_back_at_the_same_port() -> None:
    async def scenario(server: SimulatorServer, port: int) -> None:
        bare = await Bare.to(port)
        await bare.ask(1, READ_SETPOINT)
        client = StrictClient("127.0.0.1", port, timeout_s=30)
        server.faults.set(Fault(kind="refuse_connections"))
        assert await bare.ended()
        with pytest.raises(ConnectionFailedError):
            await client.read(1, Table.INPUT, 4, 2)
        server.faults.clear("refuse_connections")
        assert await client.read(1, Table.INPUT, 4, 2) == [0, 0]
        await client.close()

    serve(scenario)


def test_faults_are_set_from_another_thread_at_once() -> None:
    async def scenario(server: SimulatorServer, port: int) -> None:
        bare = await Bare.to(port)
        await bare.ask(1, READ_SETPOINT)
        await asyncio.to_thread(server.faults.set, Fault(kind="refuse_connections"))
        with pytest.raises(ConnectionRefusedError):
            await Bare.to(port)
        await asyncio.to_thread(server.faults.clear)
        assert (await (await Bare.to(port)).ask(2, READ_SETPOINT))[0] == 2

    serve(scenario)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("wrong_unit", AnswerMismatchError),
        ("wrong_transaction", AnswerMismatchError),
        ("wrong_echo", AnswerMismatchError),
        ("close_mid_frame", NoAnswerError),
    ],
)
def test_the_strict_client_never_takes_a_spoiled_write_for_done(kind: str, error: type[Exception]) -> None:
    async def scenario(server: SimulatorServer, port: int) -> None:
        client = StrictClient("127.0.0.1", port, timeout_s=30)
        server.faults.set(Fault(kind=kind, count=1))
        with pytest.raises(error) as caught:
            await client.write(1, 0, [0, 25000])
        assert getattr(caught.value, "outcome", None) is Outcome.UNKNOWN
        assert await client.read(1, Table.INPUT, 4, 2) == [0, 25000]
        await client.close()

    serve(scenario)


def test_rtu_over_tcp_with_noise() -> None:
    async def scenario(server: SimulatorServer, _port: int) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", await server.start("127.0.0.1", 0, rtu=True)
        )
        request = bytes([1]) + bytes.fromhex(READ_SETPOINT)
        good = bytes([1]) + bytes.fromhex(SETPOINT_0)
        server.faults.set(Fault(kind="crc_noise", count=1))
        writer.write(request + crc16(request))
        noisy = await reader.readexactly(len(good) + 2)
        assert noisy[:-2] == good
        assert noisy[-2:] != crc16(good)
        # A request with a wrong CRC is not executed and not answered; the next one is.
        write = bytes([1]) + bytes.fromhex(power(25))
        writer.write(write + b"\0\0")
        while len(server.recent()) < 2:
            writer.write(request + crc16(request))
            await asyncio.sleep(0.1)
        assert await reader.readexactly(len(good) + 2) == good + crc16(good)
        writer.close()

    assert serve(scenario).writes() == 0


def test_the_crc_is_the_standards() -> None:
    assert crc16(bytes.fromhex("010400040002")).hex() == "300a"


def test_broadcasts_reach_every_device_and_nobody_answers() -> None:
    async def scenario(server: SimulatorServer, port: int) -> None:
        bare = await Bare.to(port)
        bare.send(1, power(25), unit=0)
        assert await bare.ask(2, READ_SETPOINT) == (2, 1, "0404000061a8")

    served = serve(scenario)
    assert served.recent()[0]["unit"] == 0
    assert (served.writes(), served.writes(0)) == (1, 1)


def test_mbpoll_and_the_strict_client_over_a_serial_line() -> None:
    async def scenario(server: SimulatorServer, _port: int) -> None:
        path = await server.start_serial()
        assert Path(path).is_char_device()
        words = ["mbpoll", "-m", "rtu", "-b", "9600", "-P", "none", "-0", "-1", "-q", "-a", "1", "-o", "10"]
        for arguments in (
            ("-t", "4:int", "-B", "-r", "0", path, "25000"),
            ("-t", "3:int", "-B", "-r", "4", path),
        ):
            process = await asyncio.create_subprocess_exec(*words, *arguments, stdout=subprocess.PIPE)
            output = (await process.communicate())[0].decode()
            assert process.returncode == 0, output
        assert "25000" in output.split()
        server.faults.set(Fault(kind="busy", count=1))
        descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
        request = bytes([1]) + bytes.fromhex(READ_SETPOINT)
        os.write(descriptor, request + crc16(request))
        answer = b""
        while len(answer) < 5:
            answer += await asyncio.to_thread(os.read, descriptor, 5 - len(answer))
        os.close(descriptor)
        assert answer[:3].hex() == "018406"

    served = serve(scenario)
    assert served.recent()[0]["client"].startswith("serial:/dev/")


def test_a_unit_behind_a_gateway_is_silent_alone() -> None:
    async def scenario(server: SimulatorServer, port: int) -> None:
        client = StrictClient("127.0.0.1", port, timeout_s=30)
        server.faults.set(Fault(kind="gateway_silent", unit=2))
        with pytest.raises(DeviceExceptionError) as caught:
            await client.read(2, Table.INPUT, 0, 2)
        assert caught.value.code == 11
        assert await client.read(1, Table.INPUT, 4, 2) == [0, 0]
        await client.close()

    serve(scenario)


def test_a_serial_line_that_nobody_reads_does_not_stop_the_others() -> None:
    async def scenario(server: SimulatorServer, port: int) -> None:
        descriptor = os.open(await server.start_serial(), os.O_RDWR | os.O_NOCTTY)
        request = bytes([1]) + bytes.fromhex("04000000" + "0d")
        for asked in range(1, 401):
            os.write(descriptor, request + crc16(request))
            while len(server.recent()) < asked:
                await asyncio.sleep(0)
        assert (await (await Bare.to(port)).ask(1, READ_SETPOINT))[0] == 1
        os.close(descriptor)

    serve(scenario)


@pytest.mark.parametrize("transport", ["rtu_over_tcp", "serial"])
def test_the_strict_client_over_rtu(transport: str) -> None:
    async def scenario(server: SimulatorServer, _port: int) -> None:
        if transport == "serial":
            line = SerialSettings(parity="N")
            client = StrictClient(await server.start_serial(), timeout_s=5, transport=transport, serial=line)
        else:
            port = await server.start("127.0.0.1", 0, rtu=True)
            client = StrictClient("127.0.0.1", port, timeout_s=5, transport=transport)
        await client.write(1, 0, [0, 25000])
        assert await client.read(1, Table.INPUT, 4, 2) == [0, 25000]
        server.faults.set(Fault(kind="crc_noise", functions={16}, count=1))
        with pytest.raises((AnswerMismatchError, NoAnswerError)) as caught:
            await client.write(1, 0, [0, 30000])
        assert caught.value.outcome is Outcome.UNKNOWN
        assert await client.read(1, Table.INPUT, 4, 2) == [0, 30000]
        await client.close()

    serve(scenario)
