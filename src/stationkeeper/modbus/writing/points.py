"""Requests from a device profile: what it says of a point becomes bounds, proof and interlocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.errors import RequestError
from stationkeeper.modbus.reading import Place
from stationkeeper.modbus.writing.interlocks import Interlock
from stationkeeper.modbus.writing.request import Request, Safety, Verify, number
from stationkeeper.profiles.access import read_factors
from stationkeeper.profiles.parts import Point, RecipeName, Step
from stationkeeper.profiles.scaling import scaled_encoding
from stationkeeper.profiles.schema import Profile
from stationkeeper.profiles.sunspec import concrete

# Recipes that only make a device safer.
_SAFE_RECIPES = ("zero_power", "stop")


class ProfilePlaces:
    """The places of a profile's points on one device.

    Built without a device it holds those that need none; `on_device` adds addresses of SunSpec models and
    scale factors, which are read in the same run.
    """

    def __init__(self, profile: Profile, factors: Mapping[str, Decimal | None] | None = None) -> None:
        self.profile = profile
        self._factors = factors or {}

    @classmethod
    async def on_device(
        cls, client: StrictClient, unit: int, profile: Profile, names: Iterable[str]
    ) -> ProfilePlaces:
        """Ask the device for what the named points need. Raises `ModbusError`."""
        found = await concrete(client, unit, profile)
        scaled = [name for name in dict.fromkeys(names) if found.points[name].is_scaled]
        return cls(found, await read_factors(client, unit, found, scaled))

    def place(self, name: str) -> Place:
        """Return where a point lies. Raises `RequestError`."""
        point = known_point(self.profile, name)
        factor = self._factors.get(name, Decimal(1))
        if factor is None:
            raise RequestError(f"{name}: the device does not say its scale factor")
        encoding = scaled_encoding(point, factor)
        return Place(name, point.table, point.address, encoding, point.unit)


def known_point(profile: Profile, name: str) -> Point:
    """Return a point of the profile. Raises `RequestError`."""
    if name not in profile.points:
        raise RequestError(
            f"profile {profile.name} has no point {name!r}; it has {', '.join(profile.points)}"
        )
    return profile.points[name]


def needs_device(profile: Profile, names: Iterable[str]) -> bool:
    """True when only the device can tell where these points lie, or what they mean."""
    return profile.addresses_models or any(known_point(profile, name).is_scaled for name in names)


def point_names(profile: Profile, names: Iterable[str]) -> list[str]:
    """Return these points and those that a write to them reads besides."""
    besides = [profile.local_mode.point] if profile.local_mode else []
    if profile.verify:
        besides.append(profile.verify.point)
    return [*names, *besides]


def setpoint_names(profile: Profile) -> list[str]:
    """Return the points that take the set-point."""
    return [step.point for step in profile.recipes.get("set_power", []) if isinstance(step.value, str)]


def point_request(places: ProfilePlaces, name: str, value: Any) -> Request:
    """Return the write of one point with all that the profile says of it."""
    profile, point = places.profile, known_point(places.profile, name)
    request = Request(
        places.place(name),
        value,
        atomic=profile.atomic,
        write_only=name in profile.write_only,
        storage=point.storage,
        min_write_interval_s=profile.min_write_interval_s,
        interlocks=local_mode(places),
    )
    if name in setpoint_names(profile) and profile.limits:
        limits = profile.limits
        return replace(
            request, minimum=limits.min_power_kw, maximum=limits.max_power_kw, safety="towards_zero"
        )
    return request


def local_mode(places: ProfilePlaces) -> tuple[Interlock, ...]:
    """Return the interlock that refuses writes to a device in local mode, where the profile names one."""
    expectation = places.profile.local_mode
    if expectation is None:
        return ()
    place = places.place(expectation.point)
    return (Interlock("local mode", place, differs=Decimal(expectation.equals)),)


def recipe_requests(
    places: ProfilePlaces,
    recipe: RecipeName,
    *,
    power_kw: Any = None,
    verify: Verify,
    interlocks: tuple[Interlock, ...] = (),
) -> list[Request]:
    """Return a recipe's writes. The last one is proven by the set-point in force, those before it read back.

    `verify` gives the pace of the proof. Raises `RequestError` for a recipe that the profile does not have.
    """
    profile = places.profile
    if recipe not in profile.recipes:
        has = ", ".join(profile.recipes) or "none"
        raise RequestError(f"profile {profile.name} has no recipe {recipe!r}; it has {has}")
    if (recipe == "set_power") != (power_kw is not None):
        raise RequestError("power_kw goes with the recipe set_power, and only with it")
    steps = profile.recipes[recipe]
    safety: Safety = "always" if recipe in _SAFE_RECIPES else "never"
    requests = [_step_request(places, step, power_kw, len(steps)) for step in steps]
    last = requests[-1]
    return [
        replace(
            request,
            # Written in any case once the recipe has begun: see run_recipe.
            semantic="refresh",
            # A set-point towards zero stays one within set_power.
            safety=safety if safety == "always" else request.safety,
            interlocks=(*request.interlocks, *interlocks),
            verify=_effect(places, recipe, power_kw, verify)
            if request is last
            else _step_proof(request, verify),
        )
        for request in requests
    ]


def _step_request(places: ProfilePlaces, step: Step, power_kw: Any, count: int) -> Request:
    is_setpoint = isinstance(step.value, str)
    request = point_request(places, step.point, power_kw if is_setpoint else step.value)
    # A set-point is calculated, so it is hardly ever a multiple of the register's step.
    return replace(request, rounding="nearest" if is_setpoint else "error", in_sequence=count > 1)


def _step_proof(request: Request, verify: Verify) -> Verify:
    if request.write_only:
        return Verify(mode="none")
    return Verify(
        window_s=verify.window_s,
        interval_s=verify.interval_s,
        samples=1,
        hold_s=0,
        other_master_cycle_s=0,
    )


def _effect(places: ProfilePlaces, recipe: RecipeName, power_kw: Any, verify: Verify) -> Verify:
    effect = places.profile.verify
    if effect is None:
        return verify
    # Every recipe but set_power ends at 0 kW.
    value = number(power_kw, "power_kw") if recipe == "set_power" else Decimal(0)
    place = places.place(effect.point)
    step = abs(place.encoding.scale)
    tolerance = verify.tolerance if verify.tolerance is not None else max(effect.tolerance, step / 2)
    return replace(verify, mode="readback", place=place, value=value, tolerance=tolerance)
