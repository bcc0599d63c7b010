"""The devices of all stations as the inventory declares them, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from stationkeeper.controller.schema import Devices
from stationkeeper.registry.rows import RegistryError, Row, from_station
from stationkeeper.station.declared import controller_devices

Item = Mapping[str, Any]


@dataclass(frozen=True)
class Station:
    """One station of the inventory: its name, its site and its devices in their order."""

    name: str
    site: str
    devices: tuple[Item, ...]

    @classmethod
    def of(cls, name: str, values: Mapping[str, Any]) -> Station:
        """Return the station of ``{site, devices}``."""
        return cls(name, str(values["site"]), tuple(values["devices"]))


@dataclass(frozen=True)
class Declared:
    """One device whose declaration is usable: its item, its station and its row for the registry."""

    item: Item
    station: str
    row: Row

    @property
    def writes_enabled(self) -> bool:
        """Whether the controller may command it; a meter is never commanded."""
        return self.row.type == "bess" and bool(self.item.get("writes_enabled", True))


def address(station: str, modbus: Mapping[str, Any]) -> tuple[str, str, int, int]:
    """Return what two devices cannot share: gateway and unit.

    A serial line and a loopback address are the station's own; any other address means the same everywhere.
    """
    host = str(modbus["host"])
    own = station if host.startswith(("/", "127.", "localhost")) else ""
    return own, host, int(modbus.get("port", 502)), int(modbus["unit"])


def examine(system: str, stations: Sequence[Station]) -> tuple[list[Declared], dict[str, list[str]]]:
    """Return the usable declarations, and for each station the problems of its declarations.

    Found are wrong and missing values, an unknown profile, a profile of another type, and a name,
    identifier or address (gateway and unit) that two devices share, on whichever stations they are.
    """
    usable: list[Declared] = []
    problems: dict[str, list[str]] = {station.name: [] for station in stations}
    for station in stations:
        found = list(_usable(system, station, problems[station.name]))
        usable += found
        if len(found) == len(station.devices):
            problems[station.name] += _together(system, station)
    for device, text in _shared(usable):
        problems[device.station].append(text)
    return usable, problems


def _usable(system: str, station: Station, problems: list[str]) -> Iterator[Declared]:
    for item in station.devices:
        try:
            controller_devices([item], system, station.site)
            (row,) = from_station(system, station.name, station.site, [item])
            yield Declared(item, station.name, row)
        except (RegistryError, ValueError, TypeError, KeyError) as error:
            problems.append(str(error))


def _together(system: str, station: Station) -> list[str]:
    """Return what the controller's own schema says of the station's devices."""
    try:
        Devices.model_validate(controller_devices(station.devices, system, station.site))
    except ValidationError as error:
        # Shared names and addresses are told below, across all stations.
        return [
            f"{'.'.join(str(part) for part in detail['loc']) or 'devices'}: {detail['msg']}"
            for detail in error.errors()
            if "have the same" not in detail["msg"]
        ]
    return []


def _shared(devices: Sequence[Declared]) -> Iterator[tuple[Declared, str]]:
    """Yield each device that shares something with one before it, and a sentence that names both."""
    for what, keys in (
        ("name", [device.row.name for device in devices]),
        ("identifier", [device.row.id for device in devices]),
        ("unit and address", [address(device.station, device.item["modbus"]) for device in devices]),
    ):
        first: dict[Any, Declared] = {}
        for key, device in zip(keys, devices, strict=True):
            other = first.setdefault(key, device)
            if other is not device:
                yield (
                    device,
                    f"device {device.row.name} has the same {what} as {other.row.name} of station "
                    f"{other.station}; give each its own",
                )
