"""A station's devices before, during and after the release of its emergency stop.

Every question is asked over Modbus by the caller itself, apart from the station's controller. What was not
answered counts against the release: missing is never "all well".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.errors import ModbusError
from stationkeeper.profiles import (
    Profile,
    Sample,
    load_profile,
    plan_recipe,
    read_points,
    read_sample,
    run_recipe,
)

_RATING_SHARE = 0.01
# A device may overshoot its rating a little while it ramps.
_OVERSHOOT = 1.05


@dataclass(frozen=True)
class Target:
    """One device as the inventory has it; power in kW, times in seconds."""

    name: str
    profile: Profile
    host: str
    port: int
    unit: int
    rating_kw: float

    @classmethod
    def of(cls, device: Mapping[str, Any], search_path: Sequence[Any] = ()) -> Target:
        """Return the target of an inventory's device. Raises ProfileError, KeyError or ValueError."""
        profile = load_profile(str(device["profile"]), tuple(search_path))
        modbus = device["modbus"]
        return cls(
            str(device["name"]),
            profile,
            str(modbus["host"]),
            int(modbus.get("port", 502)),
            int(modbus["unit"]),
            float(device.get("rating_kw", profile.rating_kw)),
        )

    @property
    def zero_kw(self) -> float:
        """Power up to which the device counts as standing at zero."""
        return max(self.profile.noise_floor_kw, _RATING_SHARE * self.rating_kw)


@dataclass(frozen=True)
class Seen:
    """What a device answered: samples in order, identity registers, its local mode; or why it did not."""

    samples: tuple[Sample, ...] = ()
    identity: Mapping[str, int | float | None] = field(default_factory=dict)
    local_mode: int | float | None = None
    error: str = ""


@dataclass(frozen=True)
class Pace:
    """How to look: number of samples, seconds between them, seconds for one answer."""

    samples: int = 3
    interval_s: float = 1.0
    timeout_s: float = 3.0


async def look(target: Target, pace: Pace) -> Seen:
    """Read identity, local mode and several samples of one device. Never raises for a silent device."""
    client = StrictClient(target.host, target.port, pace.timeout_s, pace.timeout_s)
    profile = target.profile
    try:
        identity = await read_points(
            client, target.unit, profile, [expectation.point for expectation in profile.identity]
        )
        local = None
        if profile.local_mode:
            point = profile.local_mode.point
            local = (await read_points(client, target.unit, profile, [point]))[point]
        samples = []
        for number in range(pace.samples):
            if number:
                await asyncio.sleep(pace.interval_s)
            samples.append(await read_sample(client, target.unit, profile))
    except ModbusError as error:
        return Seen(error=error.message)
    finally:
        await client.close()
    return Seen(tuple(samples), identity, local)


async def look_at_all(targets: Sequence[Target], pace: Pace) -> dict[str, Seen]:
    """Look at all devices at the same time."""
    seen = await asyncio.gather(*(look(target, pace) for target in targets))
    return {target.name: answer for target, answer in zip(targets, seen, strict=True)}


def refusals(target: Target, seen: Seen) -> list[str]:
    """Return why this device forbids the release of the emergency stop; empty when it does not."""
    name = target.name
    found = _silence(target, seen)
    if not seen.samples:
        return found
    local = target.profile.local_mode
    if local and seen.local_mode is None:
        found.append(f"{name} does not say whether it is in local mode")
    elif local and seen.local_mode == local.equals:
        found.append(f"{name} is in local mode: somebody is at the device")
    found += _power(target, seen)
    if target.profile.device_type == "bess":
        found += _battery(target, seen.samples[-1])
    return found


def movements(target: Target, seen: Seen) -> list[str]:
    """Return why this device is not proven to stand at zero; empty when it is."""
    return _silence(target, seen) + _power(target, seen)


def excesses(target: Target, seen: Seen) -> list[str]:
    """Return what is wrong with a device that is under control again: silence, or power beyond its rating."""
    found = _silence(target, seen)
    limit = target.rating_kw * _OVERSHOOT + target.profile.noise_floor_kw
    for sample in seen.samples:
        for point in (target.profile.measured_power, "setpoint_kw"):
            value = sample.get(point)
            if value is not None and abs(value) > limit:
                found.append(f"{target.name}: {point} is {value:g} kW, its rating {target.rating_kw:g} kW")
    return found


def _silence(target: Target, seen: Seen) -> list[str]:
    if not seen.samples:
        return [f"{target.name} does not answer: {seen.error or 'no sample'}"]
    found = [
        f"{target.name} is not what its profile {target.profile.name} says: {expected.point} is "
        f"{seen.identity.get(expected.point)}, not {expected.equals}"
        for expected in target.profile.identity
        if seen.identity.get(expected.point) != expected.equals
    ]
    beats = [sample.get(target.profile.heartbeat) for sample in seen.samples]
    if None in beats or len(set(beats)) != len(beats):
        found.append(
            f"{target.name} repeats itself: its heartbeat stood at {beats[-1]}, so its values are stale"
        )
    return found


def _power(target: Target, seen: Seen) -> list[str]:
    powers = [sample.get(target.profile.measured_power) for sample in seen.samples]
    if all(power is not None and abs(power) <= target.zero_kw for power in powers):
        return []
    shown = ", ".join("missing" if power is None else f"{power:g}" for power in powers)
    return [f"{target.name} does not stand at zero: measured {shown} kW"]


def _battery(target: Target, sample: Sample) -> list[str]:
    found = []
    alarms = sample.get(target.profile.alarm_point or "alarms")
    if alarms is None:
        found.append(f"{target.name} does not say whether it has alarms")
    elif alarms:
        bits = [bit for bit in range(64) if int(alarms) >> bit & 1]
        names = [target.profile.alarms.get(bit, f"bit {bit}") for bit in bits]
        found.append(f"{target.name} has active alarms: {', '.join(names)}")
    limits = target.profile.limits
    soe = sample.get("soe_percent")
    if soe is None:
        found.append(f"{target.name} does not say its state of energy")
    elif limits and not limits.min_soe_percent <= soe <= limits.max_soe_percent:
        found.append(
            f"{target.name} holds {soe:g} % of its energy, outside of {limits.min_soe_percent:g} to "
            f"{limits.max_soe_percent:g} %"
        )
    return found


@dataclass(frozen=True)
class Released:
    """What the release recipe did to one device."""

    name: str
    changed: bool
    message: str
    ok: bool


async def run_release(target: Target, pace: Pace, *, dry_run: bool, window_s: float = 15) -> Released:
    """Bring a battery to standby at 0 kW by its profile's release recipe, and prove it.

    A device whose registers hold the recipe's values already is left alone. Never raises for a silent device.
    """
    profile = target.profile
    if "release" not in profile.recipes:
        return Released(target.name, False, "its profile has no release recipe", True)
    client = StrictClient(target.host, target.port, pace.timeout_s, pace.timeout_s)
    try:
        planned = plan_recipe(profile, "release")
        before = await read_points(client, target.unit, profile, [step.point for step in planned])
        changed = any(before[step.point] != step.value for step in planned)
        steps = ", ".join(f"{step.point} {before[step.point]} -> {step.value:g}" for step in planned)
        if dry_run or not changed:
            return Released(target.name, changed, steps, True)
        await run_recipe(client, target.unit, profile, "release")
        return await _standby(client, target, steps, window_s)
    except ModbusError as error:
        return Released(target.name, True, error.message, False)
    finally:
        await client.close()


async def _standby(client: StrictClient, target: Target, steps: str, window_s: float) -> Released:
    profile = target.profile
    deadline = asyncio.get_running_loop().time() + window_s
    while True:
        sample = await read_sample(client, target.unit, profile)
        status = profile.status.get(int(sample.get("status") or 0), "unknown")
        power = sample.get(profile.measured_power)
        if status == "standby" and power is not None and abs(power) <= target.zero_kw:
            return Released(target.name, True, f"{steps}; standby at {power:g} kW", True)
        if asyncio.get_running_loop().time() >= deadline:
            text = f"{steps}; after {window_s:g} s it is {status} at {power} kW, not in standby at zero"
            return Released(target.name, True, text, False)
        await asyncio.sleep(0.5)
