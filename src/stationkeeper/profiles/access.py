"""Reads and writes a device through its profile, over a `StrictClient`.

The functions that take a client do all that a profile may ask for: they find the addresses of SunSpec models
and read scale factors in the same run as the values. `decode_sample` and `plan_recipe` are the pure parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.codec import CodecError, Number, Rounding, encode
from stationkeeper.modbus.errors import ModbusError, RequestError
from stationkeeper.profiles.scaling import Factors, factor_of, scaled_encoding, value_of
from stationkeeper.profiles.schema import Block, Profile, RecipeName, Step
from stationkeeper.profiles.sunspec import concrete

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
    """Return one telemetry sample; a value that the device does not have is None.

    One request, so that all is from one instant; several for a profile whose telemetry has `more` blocks.
    """
    profile = await concrete(client, unit, profile)
    words: list[int] = []
    for block in profile.telemetry.blocks:
        words += await client.read(unit, block.table, block.address, block.count)
    return decode_sample(words, profile)


def decode_sample(words: Sequence[int], profile: Profile) -> Sample:
    """Return the sample in the words of the profile's telemetry blocks, one after the other."""
    found: dict[str, list[int]] = {}
    start = 0
    for block in profile.telemetry.blocks:
        found |= _cut(profile, block, words[start : start + block.count])
        start += block.count
    return {name: value_of(profile, name, found) for name in profile.telemetry.points}


async def read_points(client: StrictClient, unit: int, profile: Profile, names: Iterable[str]) -> Sample:
    """Return the named points, each from a request of its own: they may be from different instants.

    Scale factors come in the same request as their value where one telemetry block has both, otherwise in
    the next one.
    """
    profile = await concrete(client, unit, profile)
    sample: Sample = {}
    for name in names:
        _known(profile, name)
        words = await _read_words(client, unit, profile, [name, *profile.companions(name)])
        sample[name] = value_of(profile, name, words)
    return sample


async def read_factors(client: StrictClient, unit: int, profile: Profile, names: Iterable[str]) -> Factors:
    """Return what the device multiplies these points by at present (1 where fixed), for `plan_recipe`."""
    profile = await concrete(client, unit, profile)
    factors: dict[str, Decimal | None] = {}
    words: dict[str, list[int]] = {}
    for name in names:
        needed = [companion for companion in profile.companions(name) if companion not in words]
        words |= await _read_words(client, unit, profile, needed)
        factors[name] = factor_of(profile, name, words)
    return factors


async def write_point(
    client: StrictClient,
    unit: int,
    profile: Profile,
    name: str,
    value: Number,
    *,
    rounding: Rounding = "error",
) -> Written:
    """Write one point in one request; refused before the write leaves when the value does not fit."""
    _known(profile, name)
    profile = await concrete(client, unit, profile)
    needed = [name] if _needs_factor(profile, name, value) else []
    factors = await read_factors(client, unit, profile, needed)
    address, words = _plan(profile, name, value, rounding, factors)
    await client.write(unit, address, words)
    return Written(name, float(value), address, words)


async def run_recipe(
    client: StrictClient, unit: int, profile: Profile, recipe: RecipeName, *, power_kw: float | None = None
) -> list[Written]:
    """Write a recipe's steps in their order and return them; `power_kw` is for `set_power` only.

    All steps are encoded before the first one leaves. Raises `RequestError` for a recipe that the profile
    does not have or a power out of its limits, `RecipeError` when a step fails on the way.
    """
    planned = await plan_for_device(client, unit, profile, recipe, power_kw=power_kw)
    written: list[Written] = []
    for step in planned:
        try:
            await client.write(unit, step.address, step.words)
        except ModbusError as error:
            raise RecipeError(recipe, step.point, written, error) from error
        written.append(step)
    return written


async def plan_for_device(
    client: StrictClient, unit: int, profile: Profile, recipe: RecipeName, *, power_kw: float | None = None
) -> list[Written]:
    """Return what `run_recipe` would write to this device; reads only what the profile leaves open."""
    steps = _steps(profile, recipe, power_kw)
    profile = await concrete(client, unit, profile)
    needed = [step.point for step in steps if _needs_factor(profile, step.point, _value(step, power_kw))]
    factors = await read_factors(client, unit, profile, needed)
    return plan_recipe(profile, recipe, power_kw=power_kw, factors=factors)


def plan_recipe(
    profile: Profile, recipe: RecipeName, *, power_kw: float | None = None, factors: Factors | None = None
) -> list[Written]:
    """Return what `run_recipe` would write, without a device.

    A profile with SunSpec models has to be brought to a device's addresses first (`concrete`), and a value
    other than 0 for a point with a scale factor needs `factors`, as from `read_factors`.
    """
    return [_step(profile, step, power_kw, factors or {}) for step in _steps(profile, recipe, power_kw)]


def power_words(profile: Profile, power_kw: float, factors: Factors | None = None) -> list[int]:
    """Return the words that a set-point of `power_kw` (+ discharges) has on the wire, to the nearest step."""
    steps = profile.recipes["set_power"]
    planned = plan_recipe(profile, "set_power", power_kw=power_kw, factors=factors)
    return next(
        entry.words for entry, step in zip(planned, steps, strict=True) if isinstance(step.value, str)
    )


def _steps(profile: Profile, recipe: RecipeName, power_kw: float | None) -> list[Step]:
    if recipe not in profile.recipes:
        raise RequestError(f"profile {profile.name} has no recipe {recipe!r}")
    if (recipe == "set_power") != (power_kw is not None):
        raise RequestError("power_kw goes with the recipe set_power, and only with it")
    if power_kw is not None:
        _check_power(profile, power_kw)
    return profile.recipes[recipe]


def _value(step: Step, power_kw: float | None) -> Number:
    if isinstance(step.value, Decimal):
        return step.value
    return power_kw if power_kw is not None else 0


def _needs_factor(profile: Profile, name: str, value: Number) -> bool:
    # Zero is zero whatever the factor, so a stop does not depend on it.
    point = profile.points[name]
    return point.is_scaled and (value != 0 or point.offset != 0)


def _step(profile: Profile, step: Step, power_kw: float | None, factors: Factors) -> Written:
    value = _value(step, power_kw)
    # A set-point is calculated, so it is hardly ever a multiple of the register's step.
    rounding: Rounding = "error" if isinstance(step.value, Decimal) else "nearest"
    address, words = _plan(profile, step.point, value, rounding, factors)
    return Written(step.point, float(value), address, words)


def _plan(
    profile: Profile, name: str, value: Number, rounding: Rounding, factors: Factors
) -> tuple[int, list[int]]:
    _known(profile, name)
    point = profile.points[name]
    if not point.is_writable:
        raise RequestError(f"{name} of profile {profile.name} is not a whole holding register")
    if point.model:
        raise RequestError(
            f"{name} of profile {profile.name} lies in a SunSpec model: ask the device where, with `concrete`"
        )
    factor = Decimal(1)
    if _needs_factor(profile, name, value):
        if name not in factors:
            raise RequestError(
                f"{name} of profile {profile.name} has a scale factor: read it, and pass it on"
            )
        found = factors[name]
        if found is None:
            raise RequestError(f"{name}: the device does not say its scale factor, so nothing can be written")
        factor = found
    try:
        return point.address, encode(value, scaled_encoding(point, factor), rounding)
    except CodecError as error:
        raise RequestError(f"{name}: {error}") from None


async def _read_words(
    client: StrictClient, unit: int, profile: Profile, names: Sequence[str]
) -> dict[str, list[int]]:
    """Return the registers of some points, with one request for those that share a telemetry block."""
    found: dict[str, list[int]] = {}
    for span in _spans(profile, names):
        words = await client.read(unit, span.table, span.address, span.count)
        found |= _cut(profile, span, words)
    return {name: found[name] for name in names}


def _spans(profile: Profile, names: Sequence[str]) -> Iterator[Block]:
    left = list(names)
    while left:
        point = profile.points[left[0]]
        block = next((block for block in profile.telemetry.blocks if block.holds(point)), None)
        # Between two points of a block lies nothing that cannot be read; elsewhere there may be a hole.
        near = [name for name in left if block and block.holds(profile.points[name])] or left[:1]
        points = [profile.points[name] for name in near]
        first = min(point.address for point in points)
        last = max(point.address + point.count for point in points)
        yield Block(table=point.table, address=first, count=last - first)
        left = [name for name in left if name not in near]


def _cut(profile: Profile, block: Block, words: Sequence[int]) -> dict[str, list[int]]:
    """Return the registers of each point that lies in a block of which these are the words."""
    return {
        name: list(words[point.address - block.address : point.address - block.address + point.count])
        for name, point in profile.points.items()
        if block.holds(point)
    }


def _known(profile: Profile, name: str) -> None:
    if name not in profile.points:
        raise RequestError(f"profile {profile.name} has no point {name!r}")


def _check_power(profile: Profile, power_kw: float) -> None:
    limits = profile.limits
    # Written so that NaN fails it too.
    if limits is None or not limits.min_power_kw <= power_kw <= limits.max_power_kw:
        bounds = f"{limits.min_power_kw:g} to {limits.max_power_kw:g} kW" if limits else "none"
        raise RequestError(f"{power_kw} kW is outside the limits of profile {profile.name} ({bounds})")
