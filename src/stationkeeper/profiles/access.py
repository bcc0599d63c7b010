"""Reads and writes a device through its profile, over a `StrictClient`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from stationkeeper.modbus.client import StrictClient, Table
from stationkeeper.modbus.codec import CodecError, Number, Rounding, decode, encode
from stationkeeper.modbus.errors import ModbusError, RequestError
from stationkeeper.profiles.schema import Profile, RecipeName, Step

Sample = dict[str, int | float | None]


@dataclass(frozen=True, slots=True)
class Written:
    """One write that the device has echoed: point, engineering value, address and words."""

    point: str
    value: float
    address: int
    words: list[int]


class RecipeError(ModbusError):
    """A recipe that stopped at a step; `written` lists the steps that the device has echoed before."""

    def __init__(self, recipe: str, step: str, written: list[Written], cause: ModbusError) -> None:
        done = ", ".join(entry.point for entry in written) or "nothing"
        super().__init__(cause.outcome, f"recipe {recipe} failed at {step} ({done} written): {cause.message}")
        self.written = written
        self.cause = cause


async def read_sample(client: StrictClient, unit: int, profile: Profile) -> Sample:
    """Return one telemetry sample, all from one request; a value that the device does not have is None."""
    block = profile.telemetry
    words = await client.read(unit, block.table, block.address, block.count)
    return decode_sample(words, profile)


def decode_sample(words: list[int], profile: Profile) -> Sample:
    """Return the sample in the words of the profile's telemetry block."""
    sample: Sample = {}
    for name in profile.telemetry.points:
        point = profile.points[name]
        first = point.address - profile.telemetry.address
        sample[name] = _number(decode(words[first : first + point.count], point.encoding))
    return sample


async def read_points(client: StrictClient, unit: int, profile: Profile, names: Iterable[str]) -> Sample:
    """Return the named points, each from a request of its own: they may be from different instants."""
    sample: Sample = {}
    for name in names:
        point = profile.points.get(name)
        if point is None:
            raise RequestError(f"profile {profile.name} has no point {name!r}")
        words = await client.read(unit, point.table, point.address, point.count)
        sample[name] = _number(decode(words, point.encoding))
    return sample


async def write_point(
    client: StrictClient,
    unit: int,
    profile: Profile,
    name: str,
    value: Number,
    *,
    rounding: Rounding = "error",
) -> Written:
    """Write one point in one request; refused before anything leaves when the value does not fit."""
    address, words = _plan(profile, name, value, rounding)
    await client.write(unit, address, words)
    return Written(name, float(value), address, words)


async def run_recipe(
    client: StrictClient, unit: int, profile: Profile, recipe: RecipeName, *, power_kw: float | None = None
) -> list[Written]:
    """Write a recipe's steps in their order and return them; `power_kw` is for `set_power` only.

    All steps are encoded before the first one leaves. Raises `RequestError` for a recipe that the profile
    does not have or a power out of its limits, `RecipeError` when a step fails on the way.
    """
    planned = plan_recipe(profile, recipe, power_kw=power_kw)
    written: list[Written] = []
    for step in planned:
        try:
            await client.write(unit, step.address, step.words)
        except ModbusError as error:
            raise RecipeError(recipe, step.point, written, error) from error
        written.append(step)
    return written


def plan_recipe(profile: Profile, recipe: RecipeName, *, power_kw: float | None = None) -> list[Written]:
    """Return what `run_recipe` would write, without a device."""
    if recipe not in profile.recipes:
        raise RequestError(f"profile {profile.name} has no recipe {recipe!r}")
    if (recipe == "set_power") != (power_kw is not None):
        raise RequestError("power_kw goes with the recipe set_power, and only with it")
    if power_kw is not None:
        _check_power(profile, power_kw)
    return [_step(profile, step, power_kw) for step in profile.recipes[recipe]]


def power_words(profile: Profile, power_kw: float) -> list[int]:
    """Return the words that a set-point of `power_kw` (+ discharges) has on the wire, to the nearest step."""
    steps = profile.recipes["set_power"]
    planned = plan_recipe(profile, "set_power", power_kw=power_kw)
    return next(
        entry.words for entry, step in zip(planned, steps, strict=True) if isinstance(step.value, str)
    )


def _step(profile: Profile, step: Step, power_kw: float | None) -> Written:
    if isinstance(step.value, Decimal):
        value: Number = step.value
        rounding: Rounding = "error"
    else:
        # A set-point is calculated, so it is hardly ever a multiple of the register's step.
        value, rounding = power_kw if power_kw is not None else 0, "nearest"
    address, words = _plan(profile, step.point, value, rounding)
    return Written(step.point, float(value), address, words)


def _plan(profile: Profile, name: str, value: Number, rounding: Rounding) -> tuple[int, list[int]]:
    point = profile.points.get(name)
    if point is None:
        raise RequestError(f"profile {profile.name} has no point {name!r}")
    if point.table is not Table.HOLDING or point.mask is not None or point.bit is not None:
        raise RequestError(f"{name} of profile {profile.name} is not a whole holding register")
    try:
        return point.address, encode(value, point.encoding, rounding)
    except CodecError as error:
        raise RequestError(f"{name}: {error}") from None


def _check_power(profile: Profile, power_kw: float) -> None:
    limits = profile.limits
    # Written so that NaN fails it too.
    if limits is None or not limits.min_power_kw <= power_kw <= limits.max_power_kw:
        bounds = f"{limits.min_power_kw:g} to {limits.max_power_kw:g} kW" if limits else "none"
        raise RequestError(f"{power_kw} kW is outside the limits of profile {profile.name} ({bounds})")


def _number(value: Decimal | int | float | None) -> int | float | None:
    return float(value) if isinstance(value, Decimal) else value
