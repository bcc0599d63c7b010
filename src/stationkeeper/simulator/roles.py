"""Which point of a profile is which quantity of the physics: by its use, or by name. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal

from stationkeeper.modbus.client import Table
from stationkeeper.profiles.schema import Profile, RecipeName

# Quantities that the physics take as commands; all others are measured.
COMMANDS = (
    "power_command_kw",
    "operating_command",
    "operating_enable",
    "controller_heartbeat",
    "watchdog_timeout_s",
)


@dataclass(frozen=True)
class Roles:
    """`quantities` maps points to the physics; the rest are registers that keep what is written.

    `switches` are the points by which the stop recipe stops (point to value): the device runs while none
    holds its value. `enables` are points that set_power sets to a constant: the set-point acts only
    while all hold it. `constants` are what identity points read as. `read_only` points refuse writes.
    """

    quantities: dict[str, str]
    command: str | None
    switches: dict[str, float]
    starts: dict[str, float]
    enables: dict[str, float]
    constants: dict[str, float]
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
        if point not in quantities and starts.get(point) != value
    }
    enables = {
        point: value
        for point, value in _constants(profile, "set_power").items()
        if point not in quantities and point not in switches
    }
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
    return Roles(quantities, command, switches, starts, enables, constants, frozenset(read_only))


def _constants(profile: Profile, recipe: RecipeName) -> dict[str, float]:
    steps = profile.recipes.get(recipe, [])
    return {step.point: float(step.value) for step in steps if isinstance(step.value, Decimal)}
