"""The judgement on read-backs, without a device."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from stationkeeper.modbus.outcome import Outcome
from stationkeeper.modbus.writing.verification import Criteria, Verification

CRITERIA = Criteria(
    wanted=Decimal(80),
    tolerance=Decimal("0.5"),
    samples=2,
    window_s=5,
    hold_s=2,
    before=Decimal(0),
    unit="kW",
)


def judge(
    *seen: tuple[float, float | None], criteria: Criteria = CRITERIA
) -> tuple[Outcome, str, float | None]:
    """Observe until nothing can change; return outcome, sentence and when that was."""
    verification = Verification(criteria)
    for at_s, value in seen:
        verification.observe(at_s, None if value is None else Decimal(str(value)))
        if verification.is_finished(at_s):
            return *verification.verdict(), at_s
    return *verification.verdict(), None


@pytest.mark.criterion("MW-10")
def test_matches_in_a_row_that_stay_are_a_proof() -> None:
    outcome, message, ended = judge((0, 0), (1, 80), (2, 80.4), (3, 80), (4, 79.6), (5, 80))
    assert (outcome, ended) == (Outcome.VERIFIED, 4)
    assert message == "80 kW read back and held"


@pytest.mark.criterion("MW-10")
def test_holding_goes_on_after_the_window() -> None:
    assert judge((4, 80), (5, 80), (6, 80), (7, 80))[0] is Outcome.VERIFIED


@pytest.mark.criterion("MW-10")
@pytest.mark.parametrize("later", [0, 50, 81])
def test_a_value_that_matches_and_then_changes_is_contended(later: float) -> None:
    outcome, message, ended = judge((1, 80), (2, later), (3, 80))
    assert (outcome, ended) == (Outcome.CONTENDED, 2)
    assert f"80 kW was in force and then changed to {later} kW" in message


@pytest.mark.criterion("MW-10")
def test_a_missing_value_interrupts_the_row_and_accuses_nobody() -> None:
    assert judge((1, 80), (2, None), (3, 80), (4, 80), (6, 80))[0] is Outcome.VERIFIED
    late = judge((1, 80), (2, None), (4, 80), (5, None))
    assert (late[0], late[2]) == (Outcome.ACCEPTED_UNVERIFIED, 5)
    assert "not often enough within 5 s" in late[1]


@pytest.mark.criterion("MW-12")
def test_what_comes_after_the_window_is_too_late() -> None:
    outcome, message, _ = judge((4, 0), (5, 0), (8, 80))
    assert outcome is Outcome.ACCEPTED_UNVERIFIED
    assert "asked 80 kW, still 0 kW after 5 s" in message
    assert judge((5.1, 80), (5.2, 80))[0] is Outcome.ACCEPTED_UNVERIFIED


@pytest.mark.criterion("MW-13")
def test_a_value_at_rest_elsewhere_is_a_refusal_and_a_moving_one_is_not() -> None:
    outcome, message, _ = judge((3, 20), (4, 50), (5, 50))
    assert outcome is Outcome.REJECTED
    assert "asked 80 kW, the device holds 50 kW" in message
    assert judge((3, 20), (4, 40), (5, 50))[0] is Outcome.ACCEPTED_UNVERIFIED
    unknown = replace(CRITERIA, before=None)
    assert judge((4, 50), (5, 50), criteria=unknown)[0] is Outcome.ACCEPTED_UNVERIFIED


def test_nothing_read_back_is_no_proof() -> None:
    outcome, message, _ = judge((2, None), (5, None))
    assert outcome is Outcome.ACCEPTED_UNVERIFIED
    assert "nothing could be read back in 5 s" in message


def test_one_sample_without_holding_ends_at_once() -> None:
    quick = replace(CRITERIA, samples=1, hold_s=0)
    assert judge((0, 80), criteria=quick)[2] == 0
