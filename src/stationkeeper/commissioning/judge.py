"""The judgements of commissioning, from what was read. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stationkeeper.commissioning.types import Check, Fallback, Observation
from stationkeeper.profiles.schema import Profile, Watchdog
from stationkeeper.station.devices import Target

# A device may settle a little beside its set-point; its sign and its following are the question.
_FOLLOWING = 0.2
# On top of the profile's time-out: one look, and the ramp to the fall-back.
_LATE_S = 5.0
_KINDS = {"zero": "zero", "trip": "zero", "hold_last": "held", "autonomous": "other"}


def band_kw(target: Target, power_kw: float) -> float:
    """Return how far a measured power may lie from the set-point and still follow it."""
    return max(target.zero_kw, _FOLLOWING * abs(power_kw))


def judge_identity(profile: Profile, identity: Mapping[str, int | float | None]) -> Check:
    """Compare the identity registers with the profile's."""
    wrong = [
        f"{expected.point} is {identity.get(expected.point)}, not {expected.equals}"
        for expected in profile.identity
        if identity.get(expected.point) != expected.equals
    ]
    message = (
        f"not what profile {profile.name} says: {', '.join(wrong)}" if wrong else f"it is a {profile.name}"
    )
    return Check("identity", not wrong, message, dict(identity))


def judge_freshness(seen: Sequence[Observation]) -> Check:
    """Every look must show another heartbeat."""
    beats = [look.heartbeat for look in seen]
    fresh = None not in beats and len(set(beats)) == len(beats) > 1
    message = "its heartbeat moves" if fresh else "its heartbeat stands still or is missing: values are stale"
    return Check("freshness", fresh, message, {"heartbeats": beats})


def judge_state(profile: Profile, local_mode: float | None, soe_percent: float | None) -> Check:
    """Remote commands must be allowed, and there must be energy to discharge."""
    wrong = []
    if profile.local_mode is not None:
        if local_mode is None:
            wrong.append("it does not say whether it is in local mode")
        elif local_mode == profile.local_mode.equals:
            wrong.append("it is in local mode: somebody is at the device")
    limits = profile.limits
    if soe_percent is None:
        wrong.append("it does not say its state of energy")
    elif limits and not limits.min_soe_percent < soe_percent < limits.max_soe_percent:
        wrong.append(
            f"it holds {soe_percent:g} % of its energy, outside of {limits.min_soe_percent:g} to "
            f"{limits.max_soe_percent:g} %"
        )
    evidence = {"local_mode": local_mode, "soe_percent": soe_percent}
    return Check("state", not wrong, "; ".join(wrong) or "under remote control, with energy", evidence)


def judge_quiet(commands: Sequence[Mapping[str, float | None]]) -> Check:
    """Nothing that a master writes may move while nobody is supposed to write."""
    moved = sorted({name for look in commands for name in look if look[name] != commands[0].get(name)})
    message = (
        f"another master writes {', '.join(moved)}: put the device into commissioning (writes_enabled: "
        "false) or stop its controller first"
        if moved
        else "nobody else commands it"
    )
    return Check("quiet", not moved, message, {"commands": [dict(look) for look in commands]})


def judge_noise(target: Target, seen: Sequence[Observation]) -> Check:
    """The noise at zero must lie within the profile's floor."""
    powers = [abs(look.power_kw) for look in seen if look.power_kw is not None]
    floor_kw = target.profile.noise_floor_kw
    if not powers:
        return Check("noise", False, "it does not report its power")
    noise_kw = round(max(powers), 3)
    passed = noise_kw <= floor_kw
    message = f"at 0 kW it measures up to {noise_kw:g} kW, the profile says {floor_kw:g} kW"
    return Check("noise", passed, message, {"noise_kw": noise_kw, "noise_floor_kw": floor_kw})


def judge_alarms(profile: Profile, look: Observation | None) -> Check:
    """No alarm may be active once the device is commanded."""
    if profile.alarm_point is None:
        return Check("alarms", True, "the profile has no alarm point")
    alarms = look.alarms if look else None
    if alarms is None:
        return Check("alarms", False, f"it does not say its alarms ({profile.alarm_point})")
    bits = [bit for bit in range(64) if int(alarms) >> bit & 1]
    names = [profile.alarms.get(bit, f"bit {bit}") for bit in bits]
    message = f"active alarms: {', '.join(names)}" if names else "no alarm"
    return Check("alarms", not names, message, {"alarms": alarms})


def judge_sign(target: Target, power_kw: float, look: Observation, *, metered: bool) -> Check:
    """A commanded discharge must be measured as one, by the device and by its meter, and be read back."""
    band = band_kw(target, power_kw)
    wrong = []
    for who, measured in [("it", look.power_kw), *([("its meter", look.meter_kw)] if metered else [])]:
        if measured is None:
            wrong.append(f"{who} does not report its power")
        elif power_kw and measured < -target.zero_kw:
            wrong.append(f"{who} measures {measured:g} kW: the sign is reversed")
        elif abs(measured - power_kw) > band:
            wrong.append(f"{who} measures {measured:g} kW, more than {band:g} kW beside it")
    verify = target.profile.verify
    if verify is not None and not reads_back(target, power_kw, look):
        wrong.append(f"{verify.point} reads back {look.setpoint_kw} kW")
    message = f"commanded {power_kw:+g} kW: " + (
        "; ".join(wrong)
        or f"measured {look.power_kw:+g} kW" + (f", meter {look.meter_kw:+g} kW" if metered else "")
    )
    evidence = {
        "power_kw": look.power_kw,
        "meter_kw": look.meter_kw if metered else None,
        "setpoint_kw": look.setpoint_kw,
    }
    return Check("sign" if power_kw else "zero", not wrong, message, evidence)


def reads_back(target: Target, power_kw: float, look: Observation) -> bool:
    """True when the set-point in force is the one that was commanded, to half a step of its register."""
    verify = target.profile.verify
    if verify is None or look.setpoint_kw is None:
        return False
    point = target.profile.points[verify.point]
    # With a scale factor, the step is the device's; the profile's tolerance covers it.
    step = 0.0 if point.is_scaled else float(abs(point.scale))
    return abs(look.setpoint_kw - power_kw) <= float(verify.tolerance) + step / 2 + 1e-9


def find_fallback(
    target: Target, power_kw: float, seen: Sequence[Observation], fed_at_s: float, *, by_meter: bool
) -> Fallback:
    """Tell from looks in silence what the device did after the last feeding at `fed_at_s`.

    It stands at its fall-back from the first look after which all are alike: all zero, or none zero.
    """
    band = band_kw(target, power_kw)
    looks = [
        (look.at_s - fed_at_s, measured)
        for look in seen
        if (measured := look.meter_kw if by_meter else look.power_kw) is not None
    ]
    if not looks:
        return Fallback("unseen")
    last_kw = looks[-1][1]
    left = next((at for at, measured in looks if abs(measured - power_kw) > band), None)
    if left is None:
        return Fallback("held", last_kw)
    zero = abs(last_kw) <= target.zero_kw
    reached = left
    for at, measured in reversed(looks):
        if at < left or (abs(measured) <= target.zero_kw) != zero:
            break
        reached = at
    return Fallback("zero" if zero else "other", last_kw, round(left, 2), round(reached, 2))


def latest_s(profile: Profile, watchdog: Watchdog) -> float:
    """Return the seconds of silence by which the power must have left the set-point."""
    return watchdog.timeout_s + profile.apply_latency_s + _LATE_S


def judge_fallback(profile: Profile, watchdog: Watchdog, found: Fallback, waited_s: float) -> Check:
    """Compare what the device did in silence with what its profile promises."""
    evidence = {
        "kind": found.kind,
        "power_kw": found.power_kw,
        "left_after_s": found.left_after_s,
        "reached_after_s": found.reached_after_s,
        "waited_s": round(waited_s, 2),
    }
    promised = f"the profile says {watchdog.fallback} after {watchdog.timeout_s} s"
    if found.kind == "unseen":
        return Check("watchdog", False, f"nobody measured its power in silence; {promised}", evidence)
    if found.kind == "held":
        did = f"it held {found.power_kw:g} kW for {waited_s:.0f} s of silence"
        # Something else that talks to it, only read it perhaps, keeps some devices listening.
        did += ", or another master kept it listening" if watchdog.fallback != "hold_last" else ""
    else:
        where = "0 kW" if found.kind == "zero" else f"{found.power_kw:g} kW of its own"
        did = f"it left its set-point after {found.left_after_s:g} s, and stood at {where} after "
        did += f"{found.reached_after_s:g} s"
    passed = found.kind == _KINDS[watchdog.fallback]
    if passed and found.left_after_s is not None:
        if found.left_after_s < watchdog.timeout_s / 2:
            passed, did = False, did + ", so soon that a controller may feed it too late"
        elif found.left_after_s > latest_s(profile, watchdog):
            passed, did = False, did + ", later than promised"
    return Check("watchdog", passed, f"{did}; {promised}", evidence)
