"""Set-points with proof, samples that survive a bad disk, and holds that fail towards zero."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from stationkeeper.controller import clock
from stationkeeper.controller.clock import Clock, time_quality
from stationkeeper.controller.device import Device
from stationkeeper.controller.guard import Guard
from stationkeeper.controller.latch import FILE_NAME
from stationkeeper.controller.loop import DeviceLoop
from stationkeeper.controller.metrics import Metrics
from stationkeeper.controller.modes import Holds
from stationkeeper.controller.notify import notify, watchdog_period_s
from stationkeeper.controller.orders import Order, OrderState, give_order
from stationkeeper.controller.recorder import MEMORY_SAMPLES, Recorder
from stationkeeper.controller.schema import Battery, Controller, Modbus
from stationkeeper.controller.store import Sample, Store, StoreError
from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.profiles.load import load_profile
from stationkeeper.simulator.config import SimulatorConfig
from stationkeeper.simulator.config import Station as Devices
from stationkeeper.simulator.faults import Fault
from stationkeeper.simulator.server import SimulatorServer

PROFILE = load_profile("generic_battery")


@asynccontextmanager
async def battery(
    spoil: Callable[[Devices, SimulatorServer], None] = lambda devices, server: None,
) -> AsyncIterator[tuple[Device, Devices, Metrics]]:
    """A device over a real socket to a simulated battery; `spoil` makes it misbehave."""
    devices = Devices(
        SimulatorConfig.model_validate(
            {
                "listen": {"host": "127.0.0.1", "port": 0},
                "log": "/dev/null",
                "devices": [{"unit": 1, "name": "B1", "profile": "generic_battery"}],
            }
        )
    )
    server = SimulatorServer(devices.devices)
    spoil(devices, server)
    port = await server.start("127.0.0.1", 0)
    modbus = Modbus.model_validate({"host": "127.0.0.1", "port": port, "unit": 1})
    config = Battery(
        id=UUID(int=1), name="B1", profile="generic_battery", modbus=modbus, rating_kw=100, capacity_kwh=200
    )
    client = StrictClient("127.0.0.1", port, 0.3, 0.3)
    metrics = Metrics("WLCE")
    yield Device(config, PROFILE, client, metrics, boot_id=str(UUID(int=2)), clock=Clock()), devices, metrics
    await client.close()
    await server.close()


def test_a_setpoint_is_verified_by_reading_it_back() -> None:
    async def scenario() -> None:
        async with battery() as (device, _, metrics):
            assert await device.command(33.3336) is Outcome.VERIFIED
            sample = await device.sample()
            assert sample is not None
            assert sample.payload["setpoint_kw"] == pytest.approx(33.334)
            assert sample.seq == 1
            assert abs(sample.time_us - time.time_ns() / 1000) < 5_000_000
            assert metrics.registry.get_sample_value(
                "stationkeeper_device_setpoint_kw", {"site": "WLCE", "device": "B1"}
            ) == pytest.approx(33.3336)

    asyncio.run(scenario())


def test_a_device_that_acknowledges_and_ignores_is_not_verified(caplog: pytest.LogCaptureFixture) -> None:
    def ignore(devices: Devices, server: SimulatorServer) -> None:
        devices.devices[1].source.write = lambda name, value: None  # type: ignore[method-assign]

    async def scenario() -> None:
        async with battery(ignore) as (device, _, metrics):
            assert await device.command(50.0) is Outcome.ACCEPTED_UNVERIFIED
            labels = {"site": "WLCE", "device": "B1", "outcome": "accepted_unverified"}
            assert metrics.registry.get_sample_value("stationkeeper_modbus_errors_total", labels) == 1

    asyncio.run(scenario())
    assert "commanded 50 kW, the device says 0" in caplog.text


def test_a_refused_and_an_unreachable_device_are_told_apart() -> None:
    async def scenario() -> None:
        async with battery() as (device, devices, _):
            assert await device.command(5000.0) is Outcome.REJECTED
            devices.devices.pop(1)
            assert (await device.command(50.0)).is_success is False
            assert await device.sample() is None
        assert await device.command(0.0) is Outcome.UNREACHABLE

    asyncio.run(scenario())


def test_an_answer_lost_after_the_write_is_settled_by_reading() -> None:
    def swallow(devices: Devices, server: SimulatorServer) -> None:
        # The device has applied it; the client waits in vain.
        server.faults.set(Fault(kind="drop", functions=frozenset({16}), count=1))

    async def scenario() -> None:
        async with battery(swallow) as (device, _, metrics):
            assert await device.command(40.0) is Outcome.VERIFIED
            labels = {"site": "WLCE", "device": "B1", "outcome": "unknown"}
            assert metrics.registry.get_sample_value("stationkeeper_modbus_errors_total", labels) == 1

    asyncio.run(scenario())


def sample(seq: int) -> Sample:
    return Sample("bess", "d1", "b1", seq, seq, "synchronised", {"power_kw": 1.0})


def test_samples_wait_in_memory_while_the_disk_refuses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "buffer.db")
    real: Callable[[Any], int] = store.append
    metrics = Metrics("WLCE")

    def refuse(samples: Any) -> int:
        raise StoreError("database or disk is full")

    async def scenario() -> None:
        recorder = Recorder(lambda: store, metrics)
        await recorder.start()
        store.append = refuse  # type: ignore[method-assign]
        for seq in range(1, MEMORY_SAMPLES + 4):
            await recorder.save(sample(seq))
        store.append = real  # type: ignore[method-assign]
        await recorder.save(sample(9999))
        await recorder.save(sample(10_000))
        await recorder.close()

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    seqs = [row.sample.seq for row in Store(tmp_path / "buffer.db").oldest(10_000)]
    assert seqs == [*range(1, MEMORY_SAMPLES + 1), 10_000]
    # Memory is bounded, and what it could not take is counted.
    assert metrics.registry.get_sample_value("stationkeeper_samples_lost_total", {"site": "WLCE"}) == 4
    assert caplog.text.count("samples cannot be stored") == 1
    assert "takes samples again" in caplog.text


def test_a_hanging_disk_holds_nobody_up(tmp_path: Path) -> None:
    store = Store(tmp_path / "buffer.db")
    real, answers = store.append, threading.Event()

    def hang(samples: Any) -> int:
        assert answers.wait(60)
        return real(samples)

    async def scenario() -> None:
        recorder = Recorder(lambda: store, Metrics("WLCE"), wait_s=0.05)
        await recorder.start()
        store.append = hang  # type: ignore[method-assign]
        for seq in range(1, 5):
            await recorder.save(sample(seq))
        answers.set()
        await recorder.close()

    asyncio.run(scenario())
    assert [row.sample.seq for row in Store(tmp_path / "buffer.db").oldest(10)] == [1, 2, 3, 4]


def test_holds_are_read_and_a_hanging_disk_counts_as_latched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, orders = tmp_path / "latch", tmp_path / "orders"
    for path in (directory, orders):
        path.mkdir()

    async def scenario() -> None:
        guard = Guard(directory, tmp_path / "run", orders, wait_s=0.3)
        free = await guard.look()
        assert free.latch is None
        assert set(free.orders.values()) == {OrderState()}
        (orders / "safe_mode.json").write_text("not json")
        assert "is not JSON" in str((await guard.look()).orders["safe_mode"].problem)
        order = Order("safe_mode", "inspection", "ops", "run-1", datetime(2026, 1, 1, tzinfo=UTC))
        give_order(order, orders)
        assert (await guard.look()).order("safe_mode") == order
        (directory / FILE_NAME).touch()
        assert (await guard.look()).latch == "unreadable"
        (directory / FILE_NAME).unlink()
        with monkeypatch.context() as hanging:
            hanging.setattr("stationkeeper.controller.guard.read_latch", lambda *places: time.sleep(1.0))
            seen = await guard.look()
            assert "does not answer" in str(seen.latch)
            assert seen.order("safe_mode") == order, "what was ordered before stays ordered"
        guard.close()

    asyncio.run(scenario())


def loop_of(device: Device, metrics: Metrics, tmp_path: Path) -> DeviceLoop:
    section = {"poll_interval": "200ms", "components": [{"type": "to_soe", "target_soe_percent": 10}]}
    return DeviceLoop(
        device,
        Controller.model_validate(section),
        recorder=Recorder(lambda: Store(tmp_path / "buffer.db"), metrics),
        metrics=metrics,
        station=[device],
        holds=lambda: Holds(None),
        decided=lambda: None,
    )


@pytest.mark.criterion("CT-2")
def test_the_devices_watchdog_is_fed_only_after_a_proven_setpoint(tmp_path: Path) -> None:
    written: list[str] = []

    def record(devices: Devices, server: SimulatorServer) -> None:
        real = devices.devices[1].source.write

        def write(name: str, value: float) -> None:
            written.append(name)
            # The device acknowledges any power and does something else.
            real(name, value if value == 0 or name != "power_command_kw" else 7.0)

        devices.devices[1].source.write = write  # type: ignore[method-assign]

    async def scenario() -> None:
        async with battery(record) as (device, _, metrics):
            loop = loop_of(device, metrics, tmp_path)
            task = asyncio.create_task(loop.run())
            await asyncio.sleep(3.0)
            loop.end()
            await asyncio.wait([task], timeout=10)

    asyncio.run(scenario())
    # 0 kW at the start was proven, the power after it never.
    assert written[:3] == ["power_command_kw", "controller_heartbeat", "power_command_kw"]
    assert "controller_heartbeat" not in written[2:]


def test_a_cycle_that_does_not_end_is_late(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("stationkeeper.controller.loop.CYCLE_LIMIT_S", 0.1)

    async def scenario() -> None:
        async with battery() as (device, _, metrics):
            loop = loop_of(device, metrics, tmp_path)
            stuck, freed = asyncio.Event(), asyncio.Event()

            async def command(power_kw: float) -> Outcome:
                while not freed.is_set():
                    with contextlib.suppress(asyncio.CancelledError):
                        stuck.set()
                        await freed.wait()
                return Outcome.VERIFIED

            monkeypatch.setattr(device, "command", command)
            task = asyncio.create_task(loop.run())
            await stuck.wait()
            due_by_s = loop.due_by_s
            await asyncio.sleep(0.5)
            assert time.monotonic() > loop.due_by_s == due_by_s
            freed.set()
            loop.end()
            await asyncio.wait([task], timeout=5)

    asyncio.run(scenario())


def test_notify_never_waits_and_never_fails(tmp_path: Path) -> None:
    assert not notify("READY=1", {})
    assert not notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0stationkeeper-{os.getpid()}")
        assert notify("READY=1", {"NOTIFY_SOCKET": f"@stationkeeper-{os.getpid()}"})
        assert systemd.recv(100) == b"READY=1"
    assert watchdog_period_s({"WATCHDOG_USEC": "30000000"}) == 30
    assert watchdog_period_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_period_s({}) is None


def test_the_clock_is_trusted_for_a_reason_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flag, nothing = tmp_path / "synchronized", tmp_path / "nothing"

    def quality(timesyncd: Path, container: Path, *, kernel: bool = False) -> str:
        monkeypatch.setattr(clock, "TIMESYNCD_FLAG", timesyncd)
        monkeypatch.setattr(clock, "CONTAINER_FLAG", container)
        monkeypatch.setattr(clock, "kernel_says_synchronised", lambda: kernel)
        return time_quality()

    assert quality(nothing, nothing) == "unsynchronised"
    flag.touch()
    assert quality(flag, nothing) == "synchronised"
    assert quality(nothing, flag) == "synchronised"
    assert quality(nothing, nothing, kernel=True) == "synchronised"
