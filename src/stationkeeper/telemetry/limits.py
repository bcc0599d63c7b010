"""What values a device can have, and which it has to have. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stationkeeper.profiles import Profile
from stationkeeper.telemetry.source import TelemetryError

Range = tuple[float, float]

#: A device can exceed its rating for a moment, but not by half.
_OVER_RATING = 1.5
_GENERAL: Mapping[str, Range] = {
    "soe_percent": (0.0, 100.0),
    "voltage_v": (0.0, 2000.0),
    "frequency_hz": (40.0, 70.0),
    "temperature_c": (-60.0, 150.0),
    "energy_import_kwh": (0.0, 1e12),
    "energy_export_kwh": (0.0, 1e12),
}


def ranges(profile: Profile, metadata: Mapping[str, Any]) -> dict[str, Range]:
    """Return by column the smallest and largest value that can be true, in the column's unit.

    Power follows from the rating: the registry's ``metadata.rating_kw``, or the profile's.
    ``metadata.limits`` replaces any of them by ``{column: [smallest, largest]}``. Raises TelemetryError for
    limits that are none.
    """
    rating = metadata.get("rating_kw", profile.rating_kw)
    found = dict(_GENERAL)
    for column in ("power_kw", "setpoint_kw"):
        found[column] = (-rating * _OVER_RATING, rating * _OVER_RATING)
    limits = metadata.get("limits") or {}
    if not isinstance(limits, Mapping):
        raise TelemetryError(f"metadata.limits is {limits!r}; write it as {{column: [smallest, largest]}}")
    for column, limit in limits.items():
        if (
            not isinstance(limit, list)
            or len(limit) != 2
            or not all(isinstance(number, int | float) and not isinstance(number, bool) for number in limit)
            or limit[0] > limit[1]
        ):
            raise TelemetryError(f"metadata.limits.{column} is {limit!r}; write it as [smallest, largest]")
        found[column] = (float(limit[0]), float(limit[1]))
    return {column: limit for column, limit in found.items() if column in profile.telemetry.points}


def required(profile: Profile) -> list[str]:
    """Return the columns that every row has to have: what the profile samples and no device leaves out."""
    return [name for name in profile.telemetry.points if profile.points[name].not_implemented is None]
