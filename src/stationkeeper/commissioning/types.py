"""What commissioning is asked for and what it finds. Power in kW (+ discharges), times in seconds."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from stationkeeper.station.devices import Target

# A device whose sign or limits are unknown gets no more than this share of its rating.
MOST_SHARE = 0.1
_USUAL_SHARE = 0.05
# Below that, power could not be told from noise.
_LEAST_NOISES = 3

FallbackKind = Literal["zero", "held", "other", "unseen"]


class OptionsError(ValueError):
    """Options that would make the measurement unsafe or meaningless; the message names the fix."""


@dataclass(frozen=True)
class Options:
    """How to commission. `power_kw` None: 5 % of the rating, or what stands out of the noise."""

    power_kw: float | None = None
    measure_watchdog: bool = True
    samples: int = 5
    interval_s: float = 1.0
    window_s: float = 30.0
    # How long the plug stays pulled; None: twice the profile's time-out and a little more.
    silence_limit_s: float | None = None
    timeout_s: float = 3.0

    def power_for(self, target: Target) -> float:
        """Return the power to command. Raises `OptionsError` for one that is too high or drowns in noise."""
        least, most = _LEAST_NOISES * target.zero_kw, MOST_SHARE * target.rating_kw
        power_kw = max(_USUAL_SHARE * target.rating_kw, least) if self.power_kw is None else self.power_kw
        limits = target.profile.limits
        if limits is not None:
            most = min(most, limits.max_power_kw)
        # Written so that NaN fails it too.
        if not least <= power_kw <= most:
            raise OptionsError(
                f"{target.name}: power_kw is {power_kw:g}; it must be {least:g} to {most:g} kW, at least "
                "three times what counts as zero and at most a tenth of the rating"
            )
        return power_kw

    def silence_for(self, timeout_s: float) -> float:
        """Return how long to wait for a fall-back that should come after `timeout_s`."""
        return 2 * timeout_s + 10 if self.silence_limit_s is None else self.silence_limit_s


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer."""

    name: str
    passed: bool
    message: str
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Observation:
    """One look: `at_s` on the clock of the procedure; what was not answered is None."""

    at_s: float
    power_kw: float | None = None
    meter_kw: float | None = None
    setpoint_kw: float | None = None
    heartbeat: float | None = None
    status: float | None = None
    alarms: float | None = None


@dataclass(frozen=True, slots=True)
class Fallback:
    """What a device did in silence: when its power left the set-point, when it stood, and where."""

    kind: FallbackKind
    power_kw: float | None = None
    left_after_s: float | None = None
    reached_after_s: float | None = None


@dataclass
class Report:
    """All checks in their order, the proposal for the profile, and how the device was left."""

    device: str
    endpoint: str
    power_kw: float
    checks: list[Check] = field(default_factory=list)
    planned: list[str] = field(default_factory=list)
    # Never written to a profile by this program: a person decides on a measurement.
    proposal: dict[str, Any] = field(default_factory=dict)
    written: bool = False
    # Set-point and power as found and as left, in kW.
    before: dict[str, float | None] = field(default_factory=dict)
    after: dict[str, float | None] = field(default_factory=dict)
    left_at_zero: bool | None = None

    @property
    def passed(self) -> bool:
        """True when every check passed and, where anything was written, the device was left at zero."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON and Ansible."""
        return {**asdict(self), "passed": self.passed}


class Clock(Protocol):
    """Time for the procedure: monotonic seconds, and waiting."""

    def now(self) -> float:
        """Return monotonic seconds."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class RealClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
