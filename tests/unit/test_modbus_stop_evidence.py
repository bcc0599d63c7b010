"""What counts as stopped, judged without devices."""

from __future__ import annotations

import pytest

from stationkeeper.modbus.stop_evidence import Criteria, Observation, Reading, SiteState, Verification, worst


def look(
    at: float, setpoint: float | None = 0, power: float | None = 0, meter: float | None = 0
) -> Observation:
    beat = round(at * 10) + 1
    return Observation(at, setpoint, Reading(power, beat), Reading(meter, beat))


def judge(*seen: Observation) -> Verification:
    check = Verification(Criteria(3, 1.0, 0.001, 1.0, 1.2))
    for observation in seen:
        check.observe(observation)
    return check


def test_zero_needs_samples_and_then_the_holding_time() -> None:
    early = [look(0.1), look(0.2), look(0.3), look(1.2)]
    assert judge(*early).holding
    assert not judge(*early).verified
    assert judge(*early, look(1.31)).verified
    assert not judge(look(0.1), look(5)).verified


@pytest.mark.parametrize(
    "broken",
    [look(0.3, power=1.1), look(0.3, meter=-1.3), look(0.3, power=None), look(0.3, meter=None), look(0.2)],
)
def test_any_sample_that_is_not_a_fresh_zero_starts_anew(broken: Observation) -> None:
    check = judge(look(0.1), look(0.2), broken, look(0.4), look(1.45))
    assert not check.holding
    assert not check.contended


def test_power_after_a_zero_is_contention_but_a_missing_value_is_not() -> None:
    zero = [look(0.1), look(0.2), look(0.3)]
    assert judge(*zero, look(0.4, power=30)).contended
    assert judge(look(0.1), look(0.2, setpoint=50)).contended
    assert judge(look(0.1), look(0.2, setpoint=None), look(0.3, setpoint=50)).contended
    assert not judge(*zero, look(0.4, setpoint=None)).contended
    assert not judge(look(0.1, setpoint=50), look(0.2)).contended


def test_worst_state() -> None:
    assert worst([SiteState.VERIFIED_ZERO, SiteState.UNKNOWN, SiteState.READBACK_ONLY]) is SiteState.UNKNOWN
    assert worst([SiteState.VERIFIED_ZERO]) is SiteState.VERIFIED_ZERO
