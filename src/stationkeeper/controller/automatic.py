"""Safe mode that one battery enters by itself, and the proofs that it needs to leave. Pure.

Times are seconds of the monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stationkeeper.controller.modes import Cause
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.profiles.schema import Profile

# Unreachable means silence, which the age of the measurements tells; these mean a command without its proof.
UNPROVEN = frozenset({Outcome.ACCEPTED_UNVERIFIED, Outcome.UNKNOWN, Outcome.REJECTED, Outcome.CONTENDED})
FIRST_LOCKOUT_S, LONGEST_LOCKOUT_S = 60.0, 3600.0
# Within one time-out a device's watchdog is fed three times, so that one lost cycle does no harm.
FEEDS_PER_TIMEOUT = 3
ZERO_SHARE = 0.01
ZERO_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Input:
    """One measured input of the decision: its age (None: never measured) and the age up to which it counts.

    ``heartbeat_age_s`` is the time since the device's own counter moved, None when it has none to show.
    ``missing`` names values that the last answer did not have; ``identity`` is how the device differs from
    its profile; ``local`` says that somebody controls it at the device itself.
    """

    name: str
    age_s: float | None
    limit_s: float
    heartbeat_age_s: float | None
    missing: tuple[str, ...] = ()
    identity: str | None = None
    local: bool = False


def missing_values(values: Mapping[str, float | None], needed: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the needed values that are absent or no finite number."""
    return tuple(name for name in needed if (value := values.get(name)) is None or not math.isfinite(value))


def identity_problem(profile: Profile, values: Mapping[str, float | None]) -> str | None:
    """Return how a device differs from what its profile says it is, None when it does not."""
    for expected in profile.identity:
        found = values.get(expected.point)
        if found != expected.equals:
            return f"{expected.point} is {found}, profile {profile.name} says {expected.equals}"
    return None


def _within(age_s: float | None, limit_s: float) -> bool:
    # NaN is within nothing.
    return age_s is not None and age_s <= limit_s


def causes(inputs: Sequence[Input]) -> list[Cause]:
    """Return everything that speaks against following any set-point now."""
    found = []
    for each in inputs:
        if not _within(each.age_s, each.limit_s):
            found.append(Cause("stale", f"no fresh measurement of {each.name}"))
        elif each.missing:
            found.append(Cause("stale", f"{each.name}: {', '.join(each.missing)} is not measured"))
        elif not _within(each.heartbeat_age_s, each.limit_s):
            found.append(Cause("heartbeat", f"the heartbeat of {each.name} stands still"))
        if each.identity is not None:
            found.append(Cause("identity", f"{each.name}: {each.identity}"))
        if each.local:
            found.append(Cause("local_mode", f"{each.name} is in local mode: somebody is at the device"))
    return found


class AutomaticSafeMode:
    """Holds while a cause stands, and after it until 0 kW was verified. It holds from the start."""

    def __init__(self, failures_limit: int = 3) -> None:
        """``failures_limit`` set-points in a row without proof are a cause of their own."""
        self.failures_limit = failures_limit
        self._cause: Cause | None = Cause("stale", "nothing is measured yet")
        self._zero_verified = False
        self._failures = 0
        self._proven = 0
        self._lockout_s = FIRST_LOCKOUT_S
        self._locked_until_s: float | None = None

    def commanded(self, now_s: float, power_kw: float, outcome: Outcome) -> None:
        """Take in what became of a set-point."""
        if outcome.is_success:
            self._failures = 0
            self._proven += 1
            if power_kw == 0:
                self._zero_verified = True
            else:
                self._lockout_s = FIRST_LOCKOUT_S
            return
        self._zero_verified = False
        self._proven = 0
        if outcome in UNPROVEN:
            self._failures += 1
            if self._failures == self.failures_limit:
                self._locked_until_s = now_s + self._lockout_s
                # A device that takes 0 kW and refuses the rest must not be tried again at once, for ever.
                self._lockout_s = min(2 * self._lockout_s, LONGEST_LOCKOUT_S)

    def _unproven(self, now_s: float) -> list[Cause]:
        if self._locked_until_s is None:
            return []
        if self._proven >= self.failures_limit and now_s >= self._locked_until_s:
            self._locked_until_s = None
            return []
        return [Cause("verification", f"{self.failures_limit} set-points in a row were not verified")]

    def update(self, now_s: float, found: Sequence[Cause]) -> Cause | None:
        """Return why safe mode holds, None when it does not."""
        every = [*found, *self._unproven(now_s)]
        if every:
            if self._cause is None:
                self._zero_verified = False
            self._cause = every[0]
        elif self._cause is not None and self._zero_verified:
            self._cause = None
        return self._cause


class ZeroProof:
    """Proof of zero, as after a stop: read back, and small power in consecutive fresh samples."""

    def __init__(self, threshold_kw: float) -> None:
        """``threshold_kw`` is the power up to which the battery counts as standing at zero."""
        self.threshold_kw = threshold_kw
        self.samples = 0
        self._heartbeat: float | None = None
        self._read_back = False

    def commanded(self, power_kw: float, outcome: Outcome) -> None:
        """Take in what became of a set-point; only a verified zero goes on."""
        self._read_back = power_kw == 0 and outcome.is_success
        if not self._read_back:
            self.samples = 0

    def measured(self, heartbeat: float | None, powers_kw: Sequence[float | None]) -> None:
        """Take in a sample: the battery's power and that of every meter that measures it."""
        fresh = heartbeat is not None and heartbeat != self._heartbeat
        self._heartbeat = heartbeat
        still = all(power is not None and abs(power) <= self.threshold_kw for power in powers_kw)
        if not (self._read_back and still):
            self.samples = 0
        elif fresh:
            self.samples += 1

    @property
    def verified(self) -> bool:
        """Whether zero is proven."""
        return self.samples >= ZERO_SAMPLES


def zero_kw(profile: Profile, rating_kw: float) -> float:
    """Return the power up to which a battery counts as standing at zero."""
    return max(profile.noise_floor_kw, ZERO_SHARE * rating_kw)


def decision_interval_s(profile: Profile, poll_interval_s: float) -> float:
    """Return the seconds between two set-points: with each sample, and to feed the device's watchdog."""
    feed_s = profile.watchdog.timeout_s / FEEDS_PER_TIMEOUT if profile.watchdog else math.inf
    return min(poll_interval_s, feed_s)


def stays_at_zero_unwritten(profile: Profile) -> bool:
    """Tell whether a device keeps 0 kW when no set-point is written any more.

    Without a counter of its own, one that is fed by writes alone falls back; that must be zero, too.
    """
    watchdog = profile.watchdog
    return (
        watchdog is None
        or watchdog.point is not None
        or watchdog.fed_by == "any_message"
        or watchdog.fallback in ("zero", "trip")
    )


class Ramp:
    """Limits the change of a set-point. A pause since the last step is no licence for a larger one."""

    STEP_S = 1.0

    def __init__(self, step_s: float = STEP_S) -> None:
        """``step_s`` is the time between two steps."""
        self.step_s = step_s
        self.power_kw = 0.0
        self._at_s = -math.inf

    def towards(self, target_kw: float, now_s: float, limit_kw_per_s: float | None) -> float:
        """Return the next set-point on the way to a target; without a limit, the target."""
        power_kw = target_kw
        if limit_kw_per_s is not None:
            step_kw = limit_kw_per_s * min(now_s - self._at_s, self.step_s)
            power_kw = min(max(target_kw, self.power_kw - step_kw), self.power_kw + step_kw)
        return power_kw

    def commanded(self, power_kw: float, now_s: float) -> None:
        """Take in the set-point that was sent."""
        self.power_kw, self._at_s = power_kw, now_s
