"""One master at a time on a gateway, within a process and across processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from stationkeeper.modbus.endpoint_lock import default_directory, endpoint_lock
from stationkeeper.modbus.errors import EndpointBusyError, RequestError
from stationkeeper.modbus.outcome import Outcome

pytestmark = pytest.mark.criterion("MW-14")

HOLDER = """
import asyncio, pathlib, sys
from stationkeeper.modbus.endpoint_lock import endpoint_lock

async def hold():
    async with endpoint_lock(pathlib.Path(sys.argv[1]), "10.0.0.1", 502, timeout_s=0, owner="ana@control"):
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(hold())
"""


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


def holder(directory: Path) -> subprocess.Popen[str]:
    """Another process that holds 10.0.0.1:502 until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()


def test_a_second_process_is_blocked_and_told_who_holds_it(tmp_path: Path) -> None:
    async def test() -> None:
        process = holder(tmp_path)
        try:
            with pytest.raises(EndpointBusyError, match=r"10\.0\.0\.1:502") as caught:
                async with endpoint_lock(tmp_path, "10.0.0.1", 502, timeout_s=0.1, owner="me"):
                    pytest.fail("two masters on one gateway")
            assert caught.value.outcome is Outcome.BLOCKED_BY_INTERLOCK
            assert f"ana@control (pid {process.pid}, since 20" in caught.value.message
            # Another endpoint is free.
            async with endpoint_lock(tmp_path, "10.0.0.1", 503, timeout_s=0, owner="me"):
                pass
        finally:
            end(process)
        async with endpoint_lock(tmp_path, "10.0.0.1", 502, timeout_s=0, owner="me"):
            pass

    run(test)


def test_a_killed_holder_frees_it(tmp_path: Path) -> None:
    async def test() -> None:
        process = holder(tmp_path)
        process.kill()
        end(process)
        async with endpoint_lock(tmp_path, "10.0.0.1", 502, timeout_s=0, owner="me"):
            pass

    run(test)


def test_a_waiting_run_goes_on_when_the_holder_lets_go(tmp_path: Path) -> None:
    async def test() -> None:
        process = holder(tmp_path)

        async def wait() -> None:
            async with endpoint_lock(tmp_path, "10.0.0.1", 502, timeout_s=50, owner="me"):
                assert process.stdin
                assert process.stdin.closed

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await asyncio.to_thread(end, process)
        await waiting

    run(test)


def test_tasks_of_one_process_take_turns(tmp_path: Path) -> None:
    async def test() -> None:
        inside: list[int] = []
        most: list[int] = []

        async def use(number: int) -> None:
            async with endpoint_lock(tmp_path, "gateway", 502, timeout_s=50, owner=f"task {number}"):
                inside.append(number)
                most.append(len(inside))
                await asyncio.sleep(0.01)
                inside.remove(number)

        await asyncio.gather(*(use(number) for number in range(5)))
        assert most == [1] * 5

    run(test)


def test_it_is_let_go_after_an_error_and_beside_a_forked_child(tmp_path: Path) -> None:
    read, write = os.pipe()
    children: list[int] = []

    async def fail() -> None:
        async with endpoint_lock(tmp_path, "gateway", 502, timeout_s=0, owner="first"):
            children.append(os.fork())
            if children[0] == 0:
                os.read(read, 1)
                os._exit(0)
            raise RuntimeError

    async def test() -> None:
        with pytest.raises(RuntimeError):
            await fail()
        try:
            async with endpoint_lock(tmp_path, "gateway", 502, timeout_s=0, owner="second"):
                pass
        finally:
            os.write(write, b"x")
            os.waitpid(children[0], 0)

    run(test)


def test_the_names_of_one_serial_line_are_one_lock(tmp_path: Path) -> None:
    async def test() -> None:
        line, by_id = tmp_path / "ttyUSB0", tmp_path / "usb-adapter"
        line.touch()
        by_id.symlink_to(line)
        async with endpoint_lock(tmp_path / "locks", str(line), 0, timeout_s=0, owner="first"):
            with pytest.raises(EndpointBusyError, match="first"):
                async with endpoint_lock(tmp_path / "locks", str(by_id), 502, timeout_s=0, owner="second"):
                    pytest.fail("two masters on one line")

    run(test)


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    async def test() -> None:
        (tmp_path / "file").touch()
        with pytest.raises(RequestError, match="make it writable"):
            async with endpoint_lock(tmp_path / "file" / "locks", "h", 1, timeout_s=0, owner="me"):
                pass

    run(test)


def test_the_default_lies_in_the_control_nodes_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATIONKEEPER_STATE", str(tmp_path))
    assert default_directory() == tmp_path / "locks" / "endpoints"
