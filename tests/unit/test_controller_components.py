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
from stationkeeper.controller.schema_components import LimitsComponent, ToSoeComponent
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
    maintenance=st.sampled_from([None, "switched on"]),
    safe_mode=st.sampled_from([None, "asked"]),
    idle=st.sampled_from([None, "ran out"]),
    setpoint_kw=st.one_of(st.none(), POWERS),
    other_kw=st.one_of(st.none(), POWERS),
    share=st.floats(0.01, 1),
    to_soe=st.one_of(
        st.none(),
        st.floats(0, 100).map(lambda target: ToSoeComponent(type="to_soe", target_soe_percent=target)),
    ),
    soe_percent=st.one_of(st.none(), st.floats(0, 100)),
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


@pytest.mark.criterion("ES-5", "SM-1")
@given(SITUATIONS)
def test_latched_is_always_exactly_zero(situation: Situation) -> None:
    decision = decide(replace(situation, latch="stopped"))
    assert decision.setpoint_kw == 0
    assert decision.component == "emergency_stop"


@pytest.mark.criterion("SM-1")
@given(SITUATIONS)
def test_every_decision_keeps_to_the_limits_and_nothing_asked_is_zero(situation: Situation) -> None:
    decision = decide(situation)
    allowed = limits(situation).interval
    assert allowed.low_kw <= 0 <= allowed.high_kw, "no limit may force power, or a hold could not hold zero"
    assert allowed.low_kw <= decision.setpoint_kw <= allowed.high_kw
    assert decision.bounds == (Interval(0, 0) if situation.latch else allowed)
    assert abs(decision.setpoint_kw) <= situation.rating_kw
    nothing_asked = situation.setpoint_kw is None and (
        situation.to_soe is None or situation.soe_percent is None
    )
    if situation.latch or situation.maintenance or situation.safe_mode or situation.idle or nothing_asked:
        assert decision.setpoint_kw == 0
    if situation.soe_percent is not None and situation.soe_percent >= situation.device_limits.max_soe_percent:
        assert decision.setpoint_kw >= 0


NORMAL = Situation(
    rating_kw=100,
    device_limits=Limits(min_power_kw=-80, max_power_kw=80, min_soe_percent=5, max_soe_percent=95),
    to_soe=ToSoeComponent(type="to_soe", target_soe_percent=50),
    soe_percent=70,
)


EXPORT = LimitsComponent(type="limits", max_export_kw=25, max_import_kw=100, grid_meter="M0")


@pytest.mark.criterion("SM-1", "ES-5")
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
        ({"maintenance": "fan"}, 0, "maintenance_mode"),
        ({"safe_mode": "asked"}, 0, "safe_mode"),
        ({"idle": "ran out"}, 0, "idle"),
        ({"setpoint_kw": -20}, -20, "setpoint"),
        ({"setpoint_kw": -200}, -80, "limits"),
        ({"setpoint_kw": -20, "idle": "ran out"}, 0, "idle"),
        ({"maintenance": "fan", "safe_mode": "asked"}, 0, "maintenance_mode"),
        ({"maintenance": "fan", "safe_mode": "asked", "latch": "smoke"}, 0, "emergency_stop"),
        ({"site_limits": EXPORT, "other_kw": 10, "setpoint_kw": 70}, 15, "limits"),
        ({"site_limits": EXPORT, "other_kw": 30, "setpoint_kw": 70}, 0, "limits"),
        ({"site_limits": EXPORT, "other_kw": -60, "setpoint_kw": -70}, -40, "limits"),
        ({"site_limits": EXPORT, "other_kw": 10, "setpoint_kw": 70, "share": 0.5}, 7.5, "limits"),
    ],
)
def test_who_settles_it(change: dict[str, object], setpoint_kw: float, component: str) -> None:
    decision = decide(replace(NORMAL, **change))  # type: ignore[arg-type]  # fields of several types
    assert (decision.setpoint_kw, decision.component) == (setpoint_kw, component)
