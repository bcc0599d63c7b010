"""Decides a battery's set-point: components limit the output in priority order, and the limits intersect.

Pure functions. Power in kW, + discharges into the grid. The order is fixed: emergency_stop, limits,
maintenance_mode, safe_mode, idle, setpoint, to_soe. Where a component's interval does not meet what the ones
above it leave, the higher ones win: the result is their point nearest to the lower one's wish.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stationkeeper.controller.schema_components import LimitsComponent, ToSoeComponent
from stationkeeper.profiles.schema import Limits

EMERGENCY_STOP, LIMITS, MAINTENANCE_MODE, SAFE_MODE, IDLE, SETPOINT, TO_SOE = PRIORITY = (
    "emergency_stop",
    "limits",
    "maintenance_mode",
    "safe_mode",
    "idle",
    "setpoint",
    "to_soe",
)


@dataclass(frozen=True, slots=True)
class Interval:
    """Allowed output in kW, both ends included."""

    low_kw: float
    high_kw: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low_kw) and math.isfinite(self.high_kw) and self.low_kw <= self.high_kw):
            raise ValueError(f"not an interval: {self.low_kw} to {self.high_kw} kW")

    def nearest(self, power_kw: float) -> float:
        """Return the point of the interval nearest to a power."""
        return min(max(power_kw, self.low_kw), self.high_kw)


ZERO = Interval(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Constraint:
    """What one component allows, and why."""

    component: str
    interval: Interval
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The set-point, and the component that settled it: the one whose limit was the last to bind.

    ``bounds`` are what emergency stop and limits leave; nothing may go beyond them, not even a ramp.
    """

    setpoint_kw: float
    component: str
    reason: str
    bounds: Interval = ZERO


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that a decision depends on; None where there is none.

    Whether the measurements can be used at all is the matter of safe mode, whose reason comes with them.
    ``other_kw`` is what the rest of the site feeds into the grid, without this battery; ``share`` is the
    battery's part of the site's limits and set-point. ``setpoint_kw`` is the battery's.
    """

    rating_kw: float
    device_limits: Limits
    latch: str | None = None
    site_limits: LimitsComponent | None = None
    maintenance: str | None = None
    safe_mode: str | None = None
    idle: str | None = None
    setpoint_kw: float | None = None
    setpoint_reason: str = ""
    to_soe: ToSoeComponent | None = None
    soe_percent: float | None = None
    other_kw: float | None = None
    share: float = 1.0


def combine(constraints: Sequence[Constraint]) -> Decision:
    """Intersect constraints, the highest priority first, and choose the point nearest to 0 kW."""
    first, *rest = constraints
    allowed, settled = first.interval, first
    for lower in rest:
        low = allowed.nearest(lower.interval.low_kw)
        high = allowed.nearest(lower.interval.high_kw)
        narrower = Interval(low, high)
        disjoint = lower.interval.high_kw < allowed.low_kw or lower.interval.low_kw > allowed.high_kw
        if narrower != allowed and not disjoint:
            settled = lower
        allowed = narrower
    # Adding 0.0 turns -0.0 into 0.0, which reads better in logs and metrics.
    return Decision(allowed.nearest(0.0) + 0.0, settled.component, settled.reason, _bounds(constraints))


def _bounds(constraints: Sequence[Constraint]) -> Interval:
    bounds = constraints[0].interval
    for each in constraints[1:]:
        if each.component in (EMERGENCY_STOP, LIMITS):
            bounds = Interval(bounds.nearest(each.interval.low_kw), bounds.nearest(each.interval.high_kw))
    return bounds


def emergency_stop(situation: Situation) -> Constraint | None:
    """Hold 0 kW while the latch stands or its absence is not certain."""
    if situation.latch is None:
        return None
    return Constraint(EMERGENCY_STOP, ZERO, situation.latch)


def limits(situation: Situation) -> Constraint:
    """Keep to rating, device and site limits; do not charge a full or discharge an empty battery."""
    site = situation.site_limits
    device = situation.device_limits
    low = max(-situation.rating_kw, device.min_power_kw)
    high = min(situation.rating_kw, device.max_power_kw)
    floor, ceiling = device.min_soe_percent, device.max_soe_percent
    if site is not None:
        low = max(low, -site.max_charge_kw) if site.max_charge_kw is not None else low
        high = min(high, site.max_discharge_kw) if site.max_discharge_kw is not None else high
        floor = max(floor, site.min_soe_percent) if site.min_soe_percent is not None else floor
        ceiling = min(ceiling, site.max_soe_percent) if site.max_soe_percent is not None else ceiling
    reason = "power limits"
    if site is not None and situation.other_kw is not None:
        low, high = _within_grid_limits(site, situation.other_kw, situation.share, low, high)
    if situation.soe_percent is not None and situation.soe_percent >= ceiling:
        low, reason = 0.0, f"SoE {situation.soe_percent:g} % is at the upper limit"
    if situation.soe_percent is not None and situation.soe_percent <= floor:
        high, reason = 0.0, f"SoE {situation.soe_percent:g} % is at the lower limit"
    return Constraint(LIMITS, Interval(low, high), reason)


def _within_grid_limits(
    site: LimitsComponent, other_kw: float, share: float, low: float, high: float
) -> tuple[float, float]:
    """Tighten an interval so that the battery does not take the site's grid exchange over its limits.

    0 kW always stays allowed: where the rest of the site alone breaks a limit, no limit makes a battery act.
    """
    if site.max_export_kw is not None:
        high = max(0.0, min(high, share * (site.max_export_kw - other_kw)))
    if site.max_import_kw is not None:
        low = min(0.0, max(low, share * (-site.max_import_kw - other_kw)))
    return low, high


def maintenance_mode(situation: Situation) -> Constraint | None:
    """Hold 0 kW during maintenance."""
    reason = situation.maintenance
    return Constraint(MAINTENANCE_MODE, ZERO, reason) if reason is not None else None


def safe_mode(situation: Situation) -> Constraint | None:
    """Hold 0 kW on request, and while anything makes a set-point unsafe."""
    reason = situation.safe_mode
    return Constraint(SAFE_MODE, ZERO, reason) if reason is not None else None


def idle(situation: Situation) -> Constraint | None:
    """Hold 0 kW after a hold that ran out by itself, until a fresh set-point."""
    return Constraint(IDLE, ZERO, situation.idle) if situation.idle is not None else None


def setpoint(situation: Situation) -> Constraint | None:
    """Follow an ordered set-point."""
    power_kw = situation.setpoint_kw
    if power_kw is None:
        return None
    return Constraint(SETPOINT, Interval(power_kw, power_kw), situation.setpoint_reason)


def to_soe(situation: Situation) -> Constraint | None:
    """Drive towards the target SoE with the wanted power; stand still within the dead band."""
    part = situation.to_soe
    if part is None or situation.soe_percent is None:
        return None
    power_kw = part.power_kw if part.power_kw is not None else situation.rating_kw
    distance = situation.soe_percent - part.target_soe_percent
    if abs(distance) <= part.deadband_percent:
        return Constraint(TO_SOE, ZERO, f"SoE is at the target of {part.target_soe_percent:g} %")
    wanted = math.copysign(power_kw, distance)
    return Constraint(TO_SOE, Interval(wanted, wanted), f"towards {part.target_soe_percent:g} % SoE")


def decide(situation: Situation) -> Decision:
    """Return the set-point of one battery in a situation."""
    parts = (emergency_stop, limits, maintenance_mode, safe_mode, idle, setpoint, to_soe)
    every = [part(situation) for part in parts]
    return combine([constraint for constraint in every if constraint is not None])
