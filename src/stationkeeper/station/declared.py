"""What the inventory declares of a station's devices, in the forms that its programs want."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from stationkeeper.profiles import Profile, load_profile
from stationkeeper.registry.identity import device_id

Device = Mapping[str, Any]


class DeclarationError(ValueError):
    """A device that the inventory declares wrongly; the message names it and what is missing."""


def controller_devices(devices: Sequence[Device], system: str, site: str) -> dict[str, list[dict[str, Any]]]:
    """Return ``devices`` of the controller's configuration: by type, with their identifiers.

    Raises DeclarationError, and ProfileError for a profile that is missing or broken; both are ValueErrors.
    """
    found: dict[str, list[dict[str, Any]]] = {"bess": [], "meter": []}
    for device in devices:
        kind = _need(device, "type")
        if kind not in found:
            raise DeclarationError(f"device {device.get('name')}: type is {kind!r}; it must be bess or meter")
        name = str(_need(device, "name"))
        profile = _built_in(str(_need(device, "profile")))
        if profile.device_type != kind:
            raise DeclarationError(
                f"device {name}: type is {kind}, but profile {profile.name} is for {profile.device_type}"
            )
        entry: dict[str, Any] = {
            "id": str(device["id"]).lower() if device.get("id") else str(device_id(system, site, name)),
            "name": name,
            "profile": profile.name,
            "modbus": _modbus(device),
        }
        if kind == "bess":
            entry |= {key: float(_need(device, key)) for key in ("rating_kw", "capacity_kwh")}
            if "writes_enabled" in device:
                entry["writes_enabled"] = _flag(device, "writes_enabled")
        elif "writes_enabled" in device:
            raise DeclarationError(f"device {name}: writes_enabled is for batteries; a meter is only read")
        elif device.get("measures"):
            entry["measures"] = str(device["measures"])
        found[kind].append(entry)
    return found


def simulator_devices(devices: Sequence[Device], initial_soe_percent: float) -> list[dict[str, Any]]:
    """Return ``devices`` of the simulator's configuration; the seeds differ, so no two drift alike."""
    found = []
    for number, device in enumerate(devices, start=1):
        entry: dict[str, Any] = {
            "unit": _modbus(device)["unit"],
            "name": str(_need(device, "name")),
            "profile": str(_need(device, "profile")),
            "seed": 100 * number,
        }
        if _need(device, "type") == "bess":
            entry |= {key: float(_need(device, key)) for key in ("rating_kw", "capacity_kwh")}
            entry["initial_soe_percent"] = float(initial_soe_percent)
        else:
            entry["meter_of"] = str(_need(device, "measures"))
        found.append(entry)
    return found


@cache
def _built_in(name: str) -> Profile:
    """Read each profile once: a hundred devices share a few, and the package's own do not change."""
    return load_profile(name)


def _modbus(device: Device) -> dict[str, Any]:
    modbus = _need(device, "modbus")
    for key in ("host", "unit"):
        if key not in modbus:
            raise DeclarationError(f"device {device.get('name')}: modbus.{key} is missing")
    return {"host": str(modbus["host"]), "port": int(modbus.get("port", 502)), "unit": int(modbus["unit"])}


def _flag(device: Device, key: str) -> bool:
    value = device[key]
    if not isinstance(value, bool):
        raise DeclarationError(f"device {device.get('name')}: {key} is {value!r}; write true or false")
    return value


def _need(device: Device, key: str) -> Any:
    if device.get(key) in (None, ""):
        raise DeclarationError(f"device {device.get('name')}: {key} is missing")
    return device[key]
