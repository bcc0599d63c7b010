"""Decisions: limits intersect, the higher priority wins."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stationkeeper.controller.components import (
    PRIORITY,
    Constraint,
    Interval,
    Situation,
    combine,
    decide,
    limits,
)
from stationkeeper.controller.schema import LimitsComponent, ToSoeComponent
from stationkeeper.profiles.schema import Limits

POWERS = st.floats(-1000, 1000)
INTERVALS = st.tuples(POWERS, POWERS).map(lambda ends: Interval(min(ends), max(ends)))
CONSTRAINTS = st.lists(INTERVALS, min_size=1, max_size=len(PRIORITY)).map(
    lambda every: [Constraint(name, interval, "") for name, interval in zip(PRIORITY, every, strict=False)]
)
SITUATIONS = st.builds(
    Situation,
    rating_kw=st.floats(0.1, 1000),
    device_limits=st.builds(
        Limits,
        min_power_kw=st.floats(-1000, 0),
        max_power_kw=st.floats(0, 1000),
        min_soe_percent=st.floats(0, 50),
        max_soe_percent=st.floats(50, 100),
    ),
    freshness_s=st.floats(1, 100),
    latch=st.sampled_from([None, "stopped"]),
    site_limits=st.one_of(
        st.none(),
        st.builds(
            lambda low, high, charge: LimitsComponent(
                type="limits", min_soe_percent=low, max_soe_percent=high, max_charge_kw=charge
            ),
            st.floats(0, 49),
            st.floats(50, 100),
            st.one_of(st.none(), st.floats(0, 500)),
        ),
    ),
    maintenance=st.booleans(),
    safe_mode=st.sampled_from([None, "asked"]),
    to_soe=st.one_of(
        st.none(),
        st.floats(0, 100).map(lambda target: ToSoeComponent(type="to_soe", target_soe_percent=target)),
    ),
    soe_percent=st.one_of(st.none(), st.floats(0, 100)),
    power_kw=st.one_of(st.none(), POWERS),
    age_s=st.one_of(st.none(), st.floats(0, 200)),
)


@given(CONSTRAINTS)
def test_the_result_lies_in_the_highest_components_interval(constraints: list[Constraint]) -> None:
    top = constraints[0].interval
    assert top.low_kw <= combine(constraints).setpoint_kw <= top.high_kw


@given(CONSTRAINTS)
def test_the_result_lies_in_every_interval_when_they_intersect(constraints: list[Constraint]) -> None:
    low = max(constraint.interval.low_kw for constraint in constraints)
    high = min(constraint.interval.high_kw for constraint in constraints)
    setpoint_kw = combine(constraints).setpoint_kw
    if low <= high:
        assert setpoint_kw == Interval(low, high).nearest(0)
    # Whatever a lower component wants, those above it are never left.
    for count in range(1, len(constraints)):
        upper = constraints[:count]
        low = max(constraint.interval.low_kw for constraint in upper)
        high = min(constraint.interval.high_kw for constraint in upper)
        if low <= high:
            assert low <= setpoint_kw <= high


@given(SITUATIONS)
def test_latched_is_always_exactly_zero(situation: Situation) -> None:
    decision = decide(replace(situation, latch="stopped"))
    assert decision.setpoint_kw == 0
    assert decision.component == "emergency_stop"


@given(SITUATIONS)
def test_every_decision_keeps_to_the_limits_and_unknown_is_zero(situation: Situation) -> None:
    decision = decide(situation)
    allowed = limits(situation).interval
    assert allowed.low_kw <= decision.setpoint_kw <= allowed.high_kw
    assert abs(decision.setpoint_kw) <= situation.rating_kw
    unknown = None in (situation.soe_percent, situation.power_kw, situation.age_s)
    stale = situation.age_s is not None and situation.age_s > situation.freshness_s
    held = situation.latch or situation.maintenance or situation.safe_mode
    if unknown or stale or held or situation.to_soe is None:
        assert decision.setpoint_kw == 0
    if situation.soe_percent is not None and situation.soe_percent >= situation.device_limits.max_soe_percent:
        assert decision.setpoint_kw >= 0


NORMAL = Situation(
    rating_kw=100,
    device_limits=Limits(min_power_kw=-80, max_power_kw=80, min_soe_percent=5, max_soe_percent=95),
    freshness_s=10,
    to_soe=ToSoeComponent(type="to_soe", target_soe_percent=50),
    soe_percent=70,
    power_kw=0,
    age_s=1,
)


@pytest.mark.parametrize(
    ("change", "setpoint_kw", "component"),
    [
        ({}, 80, "limits"),
        ({"to_soe": ToSoeComponent(type="to_soe", target_soe_percent=50, power_kw=30)}, 30, "to_soe"),
        ({"to_soe": ToSoeComponent(type="to_soe", target_soe_percent=90, power_kw=30)}, -30, "to_soe"),
        ({"soe_percent": 50.5}, 0, "to_soe"),
        ({"to_soe": None}, 0, "limits"),
        ({"soe_percent": 3, "to_soe": ToSoeComponent(type="to_soe", target_soe_percent=0)}, 0, "limits"),
        ({"soe_percent": 96, "to_soe": ToSoeComponent(type="to_soe", target_soe_percent=100)}, 0, "limits"),
        ({"maintenance": True}, 0, "maintenance_mode"),
        ({"safe_mode": "asked"}, 0, "safe_mode"),
        ({"age_s": 11}, 0, "safe_mode"),
        ({"age_s": None}, 0, "safe_mode"),
        ({"soe_percent": float("nan")}, 0, "safe_mode"),
        ({"maintenance": True, "safe_mode": "asked", "latch": "smoke"}, 0, "emergency_stop"),
    ],
)
def test_who_settles_it(change: dict[str, object], setpoint_kw: float, component: str) -> None:
    decision = decide(replace(NORMAL, **change))  # type: ignore[arg-type]  # fields of several types
    assert (decision.setpoint_kw, decision.component) == (setpoint_kw, component)
