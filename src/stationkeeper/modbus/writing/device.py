"""The device that a module talks to, from its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.errors import RequestError
from stationkeeper.modbus.transports import SerialSettings, check_gateway_timing
from stationkeeper.profiles.load import ProfileError, load_profile, parse_profile
from stationkeeper.profiles.schema import Profile


@dataclass(frozen=True, slots=True)
class Device:
    """One unit behind one endpoint, and how to talk to it."""

    host: str
    port: int = 502
    unit: int = 1
    transport: str = "tcp"
    serial: SerialSettings | None = None
    connect_timeout_s: float = 3.0
    response_timeout_s: float = 3.0
    min_gap_s: float = 0.0

    def __str__(self) -> str:
        return self.host if self.transport == "serial" else f"{self.host}:{self.port}"

    def client(self) -> StrictClient:
        """Return a client that is not yet connected. Raises `RequestError`."""
        return StrictClient(
            self.host,
            self.port,
            self.response_timeout_s,
            self.connect_timeout_s,
            min_gap_s=self.min_gap_s,
            transport=self.transport,
            serial=self.serial,
        )


def device_of(parameters: Mapping[str, Any], profile: Profile | None) -> Device:
    """Return the device and how to talk to it. Raises `RequestError`."""
    for name in ("connect_timeout_s", "response_timeout_s"):
        if not 0 < parameters[name] < float("inf"):
            raise RequestError(f"{name} must be above 0, not {parameters[name]:g}")
    if parameters["gateway"]:
        gateway = parameters["gateway"]
        check_gateway_timing(parameters["response_timeout_s"], gateway["timeout_s"], gateway["retries"])
    serial = parameters["serial"]
    if serial is None and parameters["transport"] != "tcp":
        serial = {}
    return Device(
        parameters["host"],
        parameters["port"],
        parameters["unit"],
        parameters["transport"],
        None if serial is None else SerialSettings(**serial),
        parameters["connect_timeout_s"],
        parameters["response_timeout_s"],
        profile.min_request_gap_ms / 1000 if profile else 0.0,
    )


def profile_of(parameters: Mapping[str, Any]) -> Profile | None:
    """Return the profile, if one is given. Raises `RequestError`."""
    try:
        if parameters["profile_content"] is not None:
            return parse_profile(parameters["profile_content"], "profile_content")
        if parameters["profile"] is None:
            return None
        return load_profile(parameters["profile"], parameters["profile_path"])
    except ProfileError as error:
        raise RequestError(str(error)) from None


def reads_feed_watchdog(profile: Profile | None) -> bool:
    """True for a device whose watchdog even a read feeds."""
    return bool(profile and profile.watchdog and profile.watchdog.fed_by == "any_message")
