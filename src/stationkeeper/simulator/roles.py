"""Which point of a profile is which quantity of the physics: by its use, or by name. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal

from stationkeeper.modbus.client import Table
from stationkeeper.profiles.schema import Profile, RecipeName
from stationkeeper.simulator.battery import (
    ALARM_OVER_TEMPERATURE,
    ALARM_WATCHDOG,
    STATUS_CHARGING,
    STATUS_DISCHARGING,
    STATUS_FALLBACK,
    STATUS_STANDBY,
    STATUS_STOPPED,
)

# Quantities that the physics take as commands; all others are measured.
COMMANDS = (
    "power_command_kw",
    "operating_command",
    "operating_enable",
    "controller_heartbeat",
    "watchdog_timeout_s",
)


# What profiles call a battery's states and alarms, the best word first.
_STATUS_NAMES = {
    STATUS_STOPPED: ("stopped", "off"),
    STATUS_STANDBY: ("standby",),
    STATUS_DISCHARGING: ("discharging", "running"),
    STATUS_CHARGING: ("charging", "running"),
    STATUS_FALLBACK: ("fallback", "running"),
}
_ALARM_NAMES = {
    ALARM_WATCHDOG: ("watchdog_expired", "manufacturer_alarm"),
    ALARM_OVER_TEMPERATURE: ("over_temperature",),
}


@dataclass(frozen=True)
class Roles:
    """`quantities` maps points to the physics; the rest are registers that keep what is written.

    `switches` are the points by which the stop recipe stops (point to value): the device runs while none
    holds its value. `enables` is the constant that set_power writes last: the set-point acts only while
    it is there. `constants` are what identity points read as. `codes` brings the
    battery's status (by code) and alarms (by mask) to the profile's. `read_only` points refuse writes.
    """

    quantities: dict[str, str]
    command: str | None
    switches: dict[str, float]
    starts: dict[str, float]
    enables: dict[str, float]
    constants: dict[str, float]
    codes: dict[str, dict[int, int]]
    read_only: frozenset[str]


def roles_of(profile: Profile, known: Collection[str]) -> Roles:
    """Return the roles of a profile's points for physics that have the quantities `known`."""
    set_power = profile.recipes.get("set_power", [])
    command = next((step.point for step in set_power if isinstance(step.value, str)), None)
    quantities = {name: name for name in profile.points if name in known}
    used = [(profile.measured_power, "power_kw")]
    if profile.verify:
        used.append((profile.verify.point, "setpoint_kw"))
    if command:
        used.append((command, "power_command_kw"))
    if profile.watchdog:
        watchdog = profile.watchdog
        for point, quantity in (
            (watchdog.point, "controller_heartbeat"),
            (watchdog.timeout_point, "watchdog_timeout_s"),
            (watchdog.remaining_point, "watchdog_remaining_s"),
        ):
            if point and point != command:
                used.append((point, quantity))
    # Later ones win: a set-point register that is its own read-back is the set-point.
    quantities |= {point: quantity for point, quantity in used if quantity in known}
    starts = _constants(profile, "release")
    switches = {
        point: value
        for point, value in _constants(profile, "stop").items()
        if point not in quantities and starts.get(point, value) != value
    }
    enables = {}
    if set_power and isinstance(set_power[-1].value, Decimal) and set_power[-1].point not in quantities:
        enables[set_power[-1].point] = float(set_power[-1].value)
    constants = {"firmware_version": 1.0} if "firmware_version" in profile.points else {}
    constants |= {entry.point: float(entry.equals) for entry in profile.identity}
    factors = {point.scale_factor for point in profile.points.values() if point.scale_factor}
    read_only = {
        name
        for name, point in profile.points.items()
        if point.table not in (Table.HOLDING, Table.COIL)
        or name in constants
        or name in factors
        or name == profile.heartbeat
        or (name in quantities and quantities[name] not in COMMANDS)
    }
    codes = {"status": _status_codes(profile), "alarms": _alarm_bits(profile)}
    return Roles(quantities, command, switches, starts, enables, constants, codes, frozenset(read_only))


def shown(roles: Roles, physics: Mapping[str, float]) -> dict[str, float]:
    """Return the points that the physics know, with status and alarms in the profile's codes."""
    values = {name: physics[quantity] for name, quantity in roles.quantities.items()}
    for name, quantity in roles.quantities.items():
        if quantity == "status":
            values[name] = roles.codes["status"][int(values[name])]
        elif quantity == "alarms":
            own = int(values[name])
            values[name] = sum(bit for mask, bit in roles.codes["alarms"].items() if own & mask)
    return values


def greatest(profile: Profile, roles: Roles, physics: Mapping[str, float]) -> dict[str, float]:
    """Return the greatest value that each point may have to say, by its unit and the device's rating."""
    rating = physics["rated_power_kw"]
    by_unit = {"kW": rating, "%": 100.0, "V": 450.0, "Hz": 60.0, "°C": 100.0}
    return {
        name: by_unit.get(point.unit, abs(physics.get(roles.quantities.get(name, ""), 0.0)))
        for name, point in profile.points.items()
    }


def _constants(profile: Profile, recipe: RecipeName) -> dict[str, float]:
    steps = profile.recipes.get(recipe, [])
    return {step.point: float(step.value) for step in steps if isinstance(step.value, Decimal)}


def _status_codes(profile: Profile) -> dict[int, int]:
    of_name = {name: code for code, name in profile.status.items()}
    codes = {}
    for own, names in _STATUS_NAMES.items():
        codes[own] = next((of_name[name] for name in names if name in of_name), own)
    return codes


def _alarm_bits(profile: Profile) -> dict[int, int]:
    of_name = {name: 1 << bit for bit, name in profile.alarms.items()}
    return {
        own: next((of_name[name] for name in names if name in of_name), 0)
        for own, names in _ALARM_NAMES.items()
    }
