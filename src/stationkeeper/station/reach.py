"""Knock at every door of many stations at once: ping, sshd, Modbus, the controller's metrics. Reads only."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.errors import ModbusError
from stationkeeper.profiles.access import read_sample
from stationkeeper.runbooks.probe import Endpoint, probe_all
from stationkeeper.station.devices import Target
from stationkeeper.station.status import fetch

_AT_ONCE = 50


@dataclass(frozen=True)
class Doors:
    """The doors of one station. ``gateway`` is empty where the inventory names none."""

    station: str
    address: str
    ssh_port: int
    gateway: str
    metrics_port: int
    devices: tuple[Target, ...]


@dataclass
class Knocked:
    """What was behind the doors; None where one was not tried. ``notes`` says what each of them said."""

    gateway: bool | None
    station_ping: bool | None
    ssh_port: bool
    modbus: bool | None
    metrics: bool
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for Ansible."""
        return asdict(self)


def knock_at_all(stations: Sequence[Doors], timeout_s: float) -> dict[str, Knocked]:
    """Knock at all doors of all stations; takes a few `timeout_s` for any number up to 50."""
    greeted = probe_all(
        [Endpoint(doors.station, doors.address, doors.ssh_port) for doors in stations], timeout_s=timeout_s
    )

    async def run() -> dict[str, Knocked]:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(doors: Doors) -> Knocked:
            async with gate:
                return await _knock(doors, greeted[doors.station].reachable, timeout_s)

        found = await asyncio.gather(*(one(doors) for doors in stations))
        return {doors.station: knocked for doors, knocked in zip(stations, found, strict=True)}

    return asyncio.run(run())


async def _knock(doors: Doors, ssh: bool, timeout_s: float) -> Knocked:
    notes: list[str] = []
    gateway, station, modbus, metrics = await asyncio.gather(
        _ping(doors.gateway, timeout_s),
        _ping(doors.address, timeout_s),
        _any_device(doors.devices, timeout_s, notes),
        asyncio.to_thread(fetch, f"http://{doors.address}:{doors.metrics_port}/metrics"),
    )
    return Knocked(gateway, station, ssh, modbus, metrics is not None, notes)


async def _ping(address: str, timeout_s: float) -> bool | None:
    """Whether an address answers one of two pings; None without an address or without the program."""
    if not address:
        return None
    try:
        process = await asyncio.create_subprocess_exec(
            "ping", "-n", "-q", "-c", "2", "-i", "0.3", "-W", f"{max(1, round(timeout_s))}", address,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except OSError:
        return None
    # Exit code 2 is about the program (a name that does not resolve, no right to ping), not about the host.
    return {0: True, 1: False}.get(await process.wait())


async def _any_device(devices: Sequence[Target], timeout_s: float, notes: list[str]) -> bool | None:
    asked = [device for device in devices if device.profile.max_connections > 1]
    for device in devices:
        if device not in asked:
            # The only session belongs to the controller; a question would throw it out.
            notes.append(f"{device.name} was not asked: it has one session, its controller's")
    answers = [await _answers(device, timeout_s, notes) for device in asked]
    return any(answers) if answers else None


async def _answers(device: Target, timeout_s: float, notes: list[str]) -> bool:
    client = StrictClient(device.host, device.port, timeout_s, timeout_s)
    try:
        await read_sample(client, device.unit, device.profile)
    except ModbusError as error:
        notes.append(f"{device.name}: {error.message}")
        return False
    finally:
        await client.close()
    return True
