"""One call of the read module: lock, connect, read points and registers, disconnect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stationkeeper.modbus.endpoint_lock import default_directory, endpoint_lock
from stationkeeper.modbus.reading import Place, Reader, Reading
from stationkeeper.modbus.writing.clock import Clock
from stationkeeper.modbus.writing.device import Device
from stationkeeper.modbus.writing.evidence import shown
from stationkeeper.modbus.writing.exchange import READ_AGAIN, patiently
from stationkeeper.modbus.writing.points import ProfilePlaces, known_point
from stationkeeper.profiles.schema import Profile


async def read_places(
    device: Device,
    profile: Profile | None,
    points: Sequence[str],
    registers: Sequence[Place],
    *,
    clock: Clock,
    busy_timeout_s: float = 5.0,
    lock_timeout_s: float = 10.0,
    lock_directory: Path | None = None,
) -> list[Reading]:
    """Return points of the profile and described registers, each from a request of its own.

    Raises `ModbusError`; one value that cannot be read fails all.
    """
    for name in points:
        if profile is not None:
            known_point(profile, name)
    client = device.client()
    directory = lock_directory or default_directory()
    async with endpoint_lock(
        directory, device.host, device.port, timeout_s=lock_timeout_s, owner="modbus_read"
    ):
        try:
            places = list(registers)
            if profile is not None and points:
                found = await ProfilePlaces.on_device(client, device.unit, profile, points)
                places = [*(found.place(name) for name in points), *places]
            reader = Reader(client, device.unit)
            return [
                await patiently(lambda at=place: reader.read(at), clock, busy_timeout_s, again=READ_AGAIN)  # type: ignore[misc]
                for place in places
            ]
        finally:
            await client.close()


def described(readings: Sequence[Reading]) -> dict[str, dict[str, Any]]:
    """Return readings as plain data by name."""
    return {
        reading.place.name: {
            **(shown(reading) or {}),
            "unit": reading.place.unit,
            "table": str(reading.place.table),
            "address": reading.place.address,
        }
        for reading in readings
    }
