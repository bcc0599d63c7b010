"""The verdict on one device, from what a stop has seen of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stationkeeper.modbus.stop_evidence import SiteState, Verification
from stationkeeper.modbus.stop_types import StopResult, Target

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
        return SiteState.UNKNOWN, f"a zero write left and no answer came: {reason}"
    if watchdog and watchdog.fallback in ("zero", "trip"):
        latest = watchdog.timeout_s + _FALLBACK_MARGIN_S
        return (
            SiteState.UNREACHABLE_DEADMAN_PENDING,
            f"not reachable ({reason}); goes to 0 kW by itself within {latest} s of its controller falling "
            "silent, but not while that controller lives and is not latched",
        )
    expected = f"falls back to {watchdog.fallback}" if watchdog else "has no watchdog and keeps its set-point"
    return SiteState.UNKNOWN, f"not reachable ({reason}); without a controller it {expected}"


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
