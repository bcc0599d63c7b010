"""Jinja filters for runbooks about devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError


def device_stations(hostvars: Mapping[str, Any], hosts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return what the inventory declares of each station: its site and its devices."""
    stations = {}
    for host in hosts:
        variables = hostvars[host]
        for name in ("station_site", "station_devices"):
            if name not in variables:
                raise AnsibleFilterError(f"device_stations: {host} has no {name}")
        stations[host] = {"site": variables["station_site"], "devices": variables["station_devices"]}
    return stations


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"device_stations": device_stations}
