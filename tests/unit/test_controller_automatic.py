"""Automatic safe mode, its proofs and the ramp, by a clock that the test sets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stationkeeper.controller.automatic import (
    FIRST_LOCKOUT_S,
    ZERO_SAMPLES,
    AutomaticSafeMode,
    Input,
    Ramp,
    ZeroProof,
    causes,
    identity_problem,
    missing_values,
    zero_kw,
)
from stationkeeper.controller.modes import Cause
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.profiles.load import load_profile

PROFILE = load_profile("generic_battery")
FRESH = Input("B1", 1.0, 10.0, 1.0)


@pytest.mark.criterion("SM-4", "CT-3")
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, None),
        ({"age_s": None}, "stale"),
        ({"age_s": 10.1}, "stale"),
        ({"age_s": float("nan")}, "stale"),
        ({"missing": ("soe_percent",)}, "stale"),
        ({"heartbeat_age_s": 10.1}, "heartbeat"),
        ({"heartbeat_age_s": None}, "heartbeat"),
        ({"identity": "model_id is 2"}, "identity"),
    ],
)
def test_every_input_has_its_limit_and_what_is_missing_is_unsafe(
    change: dict[str, object], code: str | None
) -> None:
    found = causes([FRESH, replace(FRESH, name="M1", **change)])  # type: ignore[arg-type]  # several types
    assert [cause.code for cause in found] == ([code] if code else [])
    assert all("M1" in cause.reason for cause in found)


@pytest.mark.criterion("CT-3")
def test_a_value_that_is_no_number_is_missing() -> None:
    values = {"power_kw": float("nan"), "soe_percent": None, "voltage_v": 1.0, "heartbeat": float("inf")}
    needed = ["power_kw", "soe_percent", "voltage_v", "heartbeat", "absent"]
    assert missing_values(values, needed) == ("power_kw", "soe_percent", "heartbeat", "absent")


@pytest.mark.criterion("SM-4")
def test_another_device_is_known_by_its_identity() -> None:
    same: dict[str, float | None] = {expected.point: expected.equals for expected in PROFILE.identity}
    assert identity_problem(PROFILE, same) is None
    for point in same:
        assert point in str(identity_problem(PROFILE, same | {point: 7}))
        assert point in str(identity_problem(PROFILE, same | {point: None}))


@pytest.mark.criterion("SM-6")
def test_it_is_left_only_when_the_cause_is_gone_and_zero_was_verified() -> None:
    mode = AutomaticSafeMode()
    assert mode.update(0, []) is not None, "it holds from the start"
    mode.commanded(1, 0.0, Outcome.VERIFIED)
    assert mode.update(2, []) is None
    stale = Cause("stale", "no fresh measurement")
    assert mode.update(3, [stale]) == stale
    # On the way down, and with a zero that is not proven, it holds.
    mode.commanded(4, 25.0, Outcome.VERIFIED)
    assert mode.update(4, []) == stale
    mode.commanded(5, 0.0, Outcome.UNREACHABLE)
    assert mode.update(5, []) == stale
    mode.commanded(6, 0.0, Outcome.VERIFIED)
    assert mode.update(7, [stale]) == stale
    assert mode.update(8, []) is None


@pytest.mark.criterion("SM-4", "SM-6")
def test_setpoints_without_proof_lock_out_longer_each_time() -> None:
    mode = AutomaticSafeMode(failures_limit=3)
    mode.commanded(0, 0.0, Outcome.VERIFIED)
    assert mode.update(0, []) is None
    now_s, lockouts = 0.0, []
    for _ in range(3):
        for count in range(3):
            assert mode.update(now_s, []) is None, f"after {count} failures"
            mode.commanded(now_s, 50.0, Outcome.ACCEPTED_UNVERIFIED)
        began_s = now_s
        while (cause := mode.update(now_s, [])) is not None:
            assert cause.code == "verification"
            mode.commanded(now_s, 0.0, Outcome.VERIFIED)
            now_s += 1
        lockouts.append(now_s - began_s)
    assert lockouts == [FIRST_LOCKOUT_S, 2 * FIRST_LOCKOUT_S, 4 * FIRST_LOCKOUT_S]
    # A proven power ends the suspicion.
    mode.commanded(now_s, 50.0, Outcome.VERIFIED)
    for _ in range(3):
        mode.commanded(now_s, 50.0, Outcome.REJECTED)
    again_s = now_s
    while mode.update(now_s, []) is not None:
        mode.commanded(now_s, 0.0, Outcome.VERIFIED)
        now_s += 1
    assert now_s - again_s == FIRST_LOCKOUT_S


@pytest.mark.criterion("SM-6")
def test_silence_is_no_lockout_and_zero_must_be_proven_as_often_as_it_failed() -> None:
    mode = AutomaticSafeMode(failures_limit=2)
    mode.commanded(0, 0.0, Outcome.VERIFIED)
    for _ in range(20):
        mode.commanded(0, 50.0, Outcome.UNREACHABLE)
    mode.commanded(1, 0.0, Outcome.VERIFIED)
    assert mode.update(1, []) is None
    for _ in range(2):
        mode.commanded(2, 50.0, Outcome.CONTENDED)
    mode.commanded(1000, 0.0, Outcome.VERIFIED)
    assert mode.update(1000, []) is not None
    mode.commanded(1001, 0.0, Outcome.VERIFIED)
    assert mode.update(1001, []) is None


@pytest.mark.criterion("SM-5")
def test_zero_is_proven_by_read_back_and_three_fresh_small_powers_of_battery_and_meter() -> None:
    threshold = zero_kw(PROFILE, 200)
    assert threshold == 2
    proof = ZeroProof(threshold)

    def after(*samples: tuple[float | None, tuple[float | None, ...]]) -> bool:
        for heartbeat, powers in samples:
            proof.measured(heartbeat, powers)
        return proof.verified

    assert not after((1, (0,)), (2, (0,)), (3, (0,)), (4, (0,))), "without a read-back"
    proof.commanded(0.0, Outcome.VERIFIED)
    assert after((5, (0.4, -0.4)), (6, (-1.9, 1.9)), (7, (0, 0)))
    assert proof.samples == ZERO_SAMPLES
    assert not after((8, (0, 2.1))), "the meter sees power"
    assert not after((9, (0, 0)), (9, (0, 0)), (9, (0, 0))), "the same answer again is not fresh"
    assert not after((10, (0, 0)), (11, (None, 0))), "a missing power is no zero"
    assert after((12, (0,)), (13, (0,)), (14, (0,)))
    proof.commanded(0.0, Outcome.CONTENDED)
    assert not proof.verified
    proof.commanded(10.0, Outcome.VERIFIED)
    assert not after((15, (0,)), (16, (0,)), (17, (0,)))


@pytest.mark.criterion("SM-2", "CT-7")
@given(
    st.floats(0.1, 50),
    st.lists(st.tuples(st.floats(-100, 100), st.floats(0, 120)), min_size=1, max_size=20),
)
def test_no_step_of_a_ramp_is_larger_than_its_limit_and_it_arrives(
    limit: float, steps: list[tuple[float, float]]
) -> None:
    ramp, now_s, before = Ramp(), 0.0, 0.0
    for target, pause_s in steps:
        now_s += pause_s
        power_kw = ramp.towards(target, now_s, limit)
        assert (
            abs(power_kw - before) <= limit * min(pause_s, Ramp.STEP_S) + 1e-9 or before == ramp.power_kw == 0
        )
        assert min(before, target) <= power_kw <= max(before, target)
        ramp.commanded(power_kw, now_s)
        before = power_kw
    for _ in range(int(200 / limit) + 2):
        now_s += Ramp.STEP_S
        ramp.commanded(ramp.towards(0.0, now_s, limit), now_s)
    assert ramp.power_kw == 0
    assert ramp.towards(77.0, now_s, None) == 77


def test_a_pause_is_no_licence_for_a_large_step() -> None:
    ramp = Ramp()
    ramp.commanded(0.0, 0.0)
    assert ramp.towards(50.0, 3600.0, 5.0) == 5
