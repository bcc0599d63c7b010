"""Jinja filters over the package: device identifiers, registry rows, migration files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

try:
    from stationkeeper.database.migrations import MigrationError, parse, read_directory
    from stationkeeper.registry.identity import device_id
    from stationkeeper.registry.rows import RegistryError, from_station
except ImportError as error:
    raise ImportError(
        f"{error}: install the package on the control node with `make setup` (pip install -e .)"
    ) from error


def stationkeeper_device_id(device: Mapping[str, Any] | str, system: str, site: str) -> str:
    """Return the identifier of a device (or of a device name): its own ``id``, else the derived UUIDv5."""
    if isinstance(device, Mapping):
        if device.get("id"):
            return str(device["id"]).lower()
        device = str(device.get("name", ""))
    try:
        return str(device_id(system, site, device))
    except ValueError as error:
        raise AnsibleFilterError(f"stationkeeper_device_id: {error}") from error


def stationkeeper_registry_rows(
    hostvars: Mapping[str, Any], hosts: Iterable[str], system: str
) -> list[dict[str, Any]]:
    """Return the registry rows of all devices of ``hosts``; reads station_site and station_devices."""
    rows = []
    try:
        for host in hosts:
            variables = hostvars[host]
            for name in ("station_site", "station_devices"):
                if name not in variables:
                    raise AnsibleFilterError(f"stationkeeper_registry_rows: {host} has no {name}")
            rows += from_station(system, host, variables["station_site"], variables["station_devices"])
    except RegistryError as error:
        raise AnsibleFilterError(f"stationkeeper_registry_rows: {error}") from error
    return [row.as_dict() for row in rows]


def stationkeeper_migrations(directory: str) -> list[dict[str, str]]:
    """Return the migration files of a directory of the control node, as ``{name, sql}`` in order."""
    try:
        files = read_directory(Path(directory))
        parse(files)
    except MigrationError as error:
        raise AnsibleFilterError(f"stationkeeper_migrations: {error}") from error
    return [{"name": name, "sql": text} for name, text in files]


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "stationkeeper_device_id": stationkeeper_device_id,
            "stationkeeper_registry_rows": stationkeeper_registry_rows,
            "stationkeeper_migrations": stationkeeper_migrations,
        }
