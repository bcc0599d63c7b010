"""The verdict on one device, from what a stop has seen of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stationkeeper.modbus.stop_evidence import SiteState, Verification
from stationkeeper.modbus.stop_types import StopResult, Target
from stationkeeper.profiles.schema import Profile

# A device that falls back by itself does so within its time-out; this much later it has ramped down.
_FALLBACK_MARGIN_S = 10

Verdict = tuple[SiteState, str]


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the verdict depends on.

    `refused`: why the device takes no command, or empty. `pending`: recipes that it has not acknowledged.
    `answered`: it has answered at least once. `silent`: its last exchange had no answer of its own.
    """

    target: Target
    verification: Verification
    result: StopResult
    refused: str
    pending: tuple[str, ...]
    answered: bool
    silent: bool


def verdict(facts: Facts) -> Verdict:
    """Return the state and a sentence that an operator understands; the first matching rule decides."""
    return next(_rules(facts))


def _rules(facts: Facts) -> Iterator[Verdict]:
    check, result = facts.verification, facts.result
    if facts.refused:
        yield SiteState.FAILED, f"the device refuses the command: {facts.refused}"
    if not facts.answered:
        yield without_answer(facts.target, result, written=result.first_write_s is not None)
    if check.last is None or facts.silent:
        yield SiteState.UNKNOWN, f"the device fell silent: {_last_error(result)}"
    if facts.pending and (check.verified or not result.contended):
        yield SiteState.UNKNOWN, f"not acknowledged: {', '.join(facts.pending)} ({_last_error(result)})"
    if check.verified:
        won = " after its own stop command ended another master's set-points" if result.contended else ""
        yield SiteState.VERIFIED_ZERO, f"zero measured and held{won}"
    if result.contended or check.contended:
        yield SiteState.CONTENDED, f"another master keeps writing; last power {_kw(result.power_kw)}"
    if not check.readback_is_zero:
        yield SiteState.FAILED, f"the set-point in force reads {_kw(result.setpoint_kw)}, not 0"
    if check.power_is_zero is False:
        measured = f"{_kw(result.power_kw)} (meter {_kw(result.meter_power_kw)})"
        yield (
            SiteState.FAILED,
            f"set-point 0, but measured power {measured} is above {result.threshold_kw:g} kW",
        )
    if check.power_is_zero is None:
        yield SiteState.READBACK_ONLY, f"set-point 0 read back, power not measured afresh: {_missing(facts)}"
    yield SiteState.FAILED, "zero came too late to be held within the time given"


def without_answer(target: Target, result: StopResult, *, written: bool) -> Verdict:
    """Return the verdict on a device that has never answered; `written` when a write has left for it."""
    watchdog = target.device.profile.watchdog
    reason = _last_error(result)
    if written:
        return SiteState.UNKNOWN, f"a zero write left and no answer came: {reason}; {_expected(target)}"
    if watchdog and watchdog.fallback in ("zero", "trip"):
        return SiteState.UNREACHABLE_DEADMAN_PENDING, f"not reachable ({reason}); {_expected(target)}"
    return SiteState.UNKNOWN, f"not reachable ({reason}); {_expected(target)}"


def fallback_s(profile: Profile) -> float | None:
    """Return the seconds after which a silent controller's device stands at its fall-back, if it has one.

    The value that commissioning measured goes before the one of the data sheet.
    """
    watchdog = profile.watchdog
    if watchdog is None:
        return None
    measured_s = watchdog.measured_fallback_s
    return (watchdog.timeout_s if measured_s is None else measured_s) + _FALLBACK_MARGIN_S


def _expected(target: Target) -> str:
    """Say what the device does by itself, from its profile."""
    watchdog, after_s = target.device.profile.watchdog, fallback_s(target.device.profile)
    if watchdog is None or after_s is None:
        return "expected: it keeps its set-point, it has no watchdog"
    silent = f"within {after_s:g} s of its controller falling silent"
    if watchdog.fallback in ("zero", "trip"):
        unless = "but not while that controller lives and is not latched"
        return f"expected: it goes to 0 kW by itself {silent}, {unless}"
    return f"expected: it falls back to {watchdog.fallback} {silent}"


def _missing(facts: Facts) -> str:
    last = facts.verification.last
    if facts.target.meter and last and last.meter is None:
        return f"no answer from the meter, {facts.target.meter}"
    if facts.result.power_kw is None:
        return "the device does not report its power"
    if facts.target.meter and facts.result.meter_power_kw is None:
        return "the meter does not report its power"
    return "a heartbeat stands still"


def _last_error(result: StopResult) -> str:
    return result.errors[-1] if result.errors else "no answer in the time given"


def _kw(power_kw: float | None) -> str:
    return "unknown" if power_kw is None else f"{power_kw:g} kW"
