"""From the parameters of a module to a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from stationkeeper.modbus.errors import RequestError
from stationkeeper.modbus.options import WRITE
from stationkeeper.modbus.writing.device import device_of, profile_of
from stationkeeper.modbus.writing.interlocks import Interlock
from stationkeeper.modbus.writing.job import Job, Work
from stationkeeper.modbus.writing.parameters import (
    Parameters,
    interlock_of,
    interlock_points,
    pace_of,
    request_of,
)
from stationkeeper.modbus.writing.points import ProfilePlaces, known_point, point_names, recipe_requests
from stationkeeper.modbus.writing.request import Request, Verify
from stationkeeper.modbus.writing.session import Patience
from stationkeeper.profiles.parts import RecipeName
from stationkeeper.profiles.schema import Profile

# What stands beside a group or a recipe; everything else of a write belongs into it.
_BESIDE_SEQUENCES = ("interlocks",)
_BESIDE_RECIPES = ("interlocks", "verify")
_SAID_BY_RECIPES = ("mode", "point", "address", "reference", "value")


def write_job(parameters: Parameters, group: Sequence[Parameters] | None, *, dry_run: bool) -> Job:
    """Return the job of `modbus_write`; `group` holds its entries, validated and completed.

    Raises `RequestError` for parameters that do not fit together.
    """
    profile = profile_of(parameters)
    device = device_of(parameters, profile)
    _refuse_misplaced(parameters)
    settle_s = parameters["settle_s"]
    return Job(
        device,
        lambda places: _work(parameters, group, places),
        profile,
        tuple(_points(parameters, group, profile)),
        Patience(
            parameters["busy_timeout_s"],
            device.response_timeout_s if settle_s is None else settle_s,
            parameters["write_attempts"],
        ),
        dry_run,
        parameters["allow_broadcast"],
        parameters["lock_timeout_s"],
        parameters["reason"],
        parameters["ticket"],
    )


def _work(parameters: Parameters, group: Sequence[Parameters] | None, places: ProfilePlaces | None) -> Work:
    if group is not None and not group:
        raise RequestError("group is empty: nothing would be written")
    on_partial = _on_partial(parameters, places, sequence=group is not None or bool(parameters["recipe"]))
    if parameters["recipe"]:
        return Work("recipe", tuple(_recipe(parameters, places)), on_partial)
    if group is None:
        return Work("single", (_single(parameters, places, ()),))
    shared = tuple(parameters["interlocks"])
    requests = [replace(_single(entry, places, shared), in_sequence=len(group) > 1) for entry in group]
    return Work("group", tuple(requests), on_partial)


def _single(entry: Parameters, places: ProfilePlaces | None, shared: Sequence[Parameters]) -> Request:
    if entry["value"] is None:
        raise RequestError("a write needs a `value`")
    return request_of(entry, places, _interlocks([*shared, *entry["interlocks"]], places, entry["value"]))


def _recipe(parameters: Parameters, places: ProfilePlaces | None) -> list[Request]:
    if places is None:
        raise RequestError("a recipe needs a `profile`")
    recipe = cast("RecipeName", parameters["recipe"])
    power_kw = parameters["power_kw"]
    interlocks = _interlocks(parameters["interlocks"], places, 0 if power_kw is None else power_kw)
    verify = parameters["verify"] or {}
    for name in _SAID_BY_RECIPES:
        if verify.get(name) is not None:
            raise RequestError(
                f"verify.{name} does not go with a recipe, which is proven by the set-point in force; drop it"
            )
    pace = pace_of(verify, places.profile)
    return recipe_requests(places, recipe, power_kw=power_kw, verify=pace, interlocks=interlocks)


def _on_partial(
    parameters: Parameters, places: ProfilePlaces | None, *, sequence: bool
) -> tuple[Request, ...]:
    wanted = parameters["on_partial"]
    if not sequence:
        if wanted is not None:
            raise RequestError("on_partial goes with group or recipe")
        return ()
    if wanted == "none":
        return ()
    if places is None:
        raise RequestError(
            "a group that fails on the way is followed by a recipe of the profile (zero power): give "
            "`profile`, or set on_partial to none"
        )
    recipe = wanted or places.profile.on_partial
    if recipe == parameters["recipe"]:
        # It has just failed; doing it once more is no way back.
        return ()
    quick = Verify(window_s=pace_of({}, places.profile).window_s, samples=1, hold_s=0, other_master_cycle_s=0)
    return tuple(recipe_requests(places, recipe, verify=quick))


def _interlocks(
    entries: Sequence[Parameters], places: ProfilePlaces | None, value: Any
) -> tuple[Interlock, ...]:
    return tuple(interlock for entry in entries for interlock in interlock_of(entry, places, value))


def _points(parameters: Parameters, group: Sequence[Parameters] | None, profile: Profile | None) -> list[str]:
    """Return every point of the profile that the job reads or writes."""
    if profile is None:
        return []
    names: list[str] = []
    for entry in [parameters, *(group or [])]:
        names += [entry["point"]] if entry["point"] else []
        verify = entry["verify"] or {}
        names += [verify["point"]] if verify.get("point") else []
        for interlock in entry["interlocks"]:
            names += interlock_points(interlock, profile)
    recipes = {parameters["recipe"], parameters["on_partial"] or profile.on_partial}
    if group is not None or parameters["recipe"]:
        names += [step.point for name, steps in profile.recipes.items() if name in recipes for step in steps]
    for name in names:
        known_point(profile, name)
    return list(dict.fromkeys(point_names(profile, names)))


def _refuse_misplaced(parameters: Mapping[str, Any]) -> None:
    """Refuse options of a single write that a group or recipe would not use."""
    if parameters["recipe"] is None and parameters["power_kw"] is not None:
        raise RequestError("power_kw goes with the recipe set_power, and only with it")
    if parameters["group"] is None and parameters["recipe"] is None:
        return
    what, allowed = (
        ("recipe", _BESIDE_RECIPES) if parameters["recipe"] is not None else ("group", _BESIDE_SEQUENCES)
    )
    for name, spec in WRITE.items():
        if name not in allowed and parameters[name] not in (None, spec.get("default")):
            raise RequestError(
                f"{name} is of a single write; "
                + ("a recipe says it itself" if what == "recipe" else "give it in the entries of group")
            )
