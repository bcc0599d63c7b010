"""What counts as stopped: judges observations of one device. Pure: time comes with the observations."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class SiteState(StrEnum):
    """Result of a stop, from best to worst. Only `VERIFIED_ZERO` is stopped; `PLANNED` is a dry run's."""

    PLANNED = "PLANNED"
    VERIFIED_ZERO = "VERIFIED_ZERO"
    READBACK_ONLY = "READBACK_ONLY"
    UNREACHABLE_DEADMAN_PENDING = "UNREACHABLE_DEADMAN_PENDING"
    UNKNOWN = "UNKNOWN"
    CONTENDED = "CONTENDED"
    FAILED = "FAILED"


def worst(states: list[SiteState]) -> SiteState:
    """Return the worst of some states."""
    order = list(SiteState)
    return max(states, key=order.index)


@dataclass(frozen=True, slots=True)
class Reading:
    """Measured power of one instrument, with the heartbeat that tells a fresh sample from an old one."""

    power_kw: float | None
    heartbeat: int | float | None


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at a device. `at_s` counts from the start; `meter` is None when it did not answer."""

    at_s: float
    setpoint_kw: float | None
    device: Reading
    meter: Reading | None = None


@dataclass(frozen=True, slots=True)
class Criteria:
    """When a device counts as standing at zero. `meter_threshold_kw` is None where there is no meter."""

    samples: int
    hold_s: float
    tolerance_kw: float
    threshold_kw: float
    meter_threshold_kw: float | None


class Verification:
    """Decides from consecutive observations whether a device has reached zero and stays there.

    Zero needs the set-point's read-back and the measured power of the device and, where given, of the
    meter, in `samples` consecutive fresh observations, and then for `hold_s` longer. A read-back that has
    been zero once, or a verified zero, that changes again is another master: `contended`.
    """

    def __init__(self, criteria: Criteria) -> None:
        self._criteria = criteria
        self._streak = 0
        self._complete_at_s: float | None = None
        self._readback_matched = False
        self._fresh = False
        self.last: Observation | None = None
        self.contended = False
        self.verified = False

    @property
    def holding(self) -> bool:
        """True once enough samples have been zero and only the holding time is left."""
        return self._complete_at_s is not None

    @property
    def readback_is_zero(self) -> bool:
        """True when the last observation's set-point was zero."""
        return self.last is not None and self._is_readback_zero(self.last) is True

    @property
    def power_is_zero(self) -> bool | None:
        """Whether the last observation's power was zero everywhere; None when that cannot be told.

        False is always to be believed; a zero only from fresh samples of all instruments.
        """
        verdict = None if self.last is None else self._is_power_zero(self.last)
        return None if verdict and not self._fresh else verdict

    def observe(self, seen: Observation) -> None:
        """Take the next observation."""
        self._fresh = self._is_fresh(seen)
        self.last = seen
        readback = self._is_readback_zero(seen)
        power = self._is_power_zero(seen)
        if (self._readback_matched and readback is False) or (self.holding and power is False):
            self.contended = True
        # A value that is missing once says nothing about another master.
        self._readback_matched = self._readback_matched if readback is None else readback
        if not (readback and power and self._fresh):
            self.interrupt()
            return
        self._streak += 1
        if self._streak >= self._criteria.samples and self._complete_at_s is None:
            self._complete_at_s = seen.at_s
        self.verified = (
            self._complete_at_s is not None and seen.at_s - self._complete_at_s >= self._criteria.hold_s
        )

    def interrupt(self) -> None:
        """Forget the run of zeros: an observation failed, was not zero, or commands were given anew."""
        self._streak = 0
        self._complete_at_s = None
        self.verified = False

    def restart(self) -> None:
        """Begin again after new commands; what was contended may be won now."""
        self.interrupt()
        self._readback_matched = False
        self.contended = False

    def _is_readback_zero(self, seen: Observation) -> bool | None:
        return None if seen.setpoint_kw is None else abs(seen.setpoint_kw) <= self._criteria.tolerance_kw

    def _is_power_zero(self, seen: Observation) -> bool | None:
        pairs = [(seen.device, self._criteria.threshold_kw)]
        if self._criteria.meter_threshold_kw is not None:
            pairs.append((seen.meter or Reading(None, None), self._criteria.meter_threshold_kw))
        verdicts = [
            None if reading.power_kw is None else abs(reading.power_kw) <= limit for reading, limit in pairs
        ]
        if False in verdicts:
            return False
        return None if None in verdicts else True

    def _is_fresh(self, seen: Observation) -> bool:
        """True when every instrument's heartbeat has moved since the last observation; a first one counts."""
        before = self.last
        pairs = [(seen.device, before.device if before else None)]
        if self._criteria.meter_threshold_kw is not None:
            pairs.append((seen.meter or Reading(None, None), before.meter if before else None))
        return all(
            now.heartbeat is not None and (then is None or now.heartbeat != then.heartbeat)
            for now, then in pairs
        )
