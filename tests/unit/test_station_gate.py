"""The health gate: what passes, what fails at once, what may go away. All on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from stationkeeper.station.gate import Gate, Sight, Times, Wanted, required_devices, watch
from stationkeeper.station.service import Service
from stationkeeper.station.status import Metrics

UNIT = Service(True, "active", True, False, 0, "new", "new", 100.0, 4711)
START_S = 1_000_000.0
TIMES = Times(watch_s=45, settle_s=30)
WANTED = Wanted("cafe", "new", ("B1", "M1"), age_s=11)


def told(
    *, hash: str = "cafe", valid: int = 1, samples: dict[str, float] | None = None, errors: int = 0
) -> Metrics:
    """What a controller tells; ``samples`` are the times of the newest ones."""
    taken = {"B1": START_S, "M1": START_S} if samples is None else samples
    lines = [
        f'stationkeeper_config_info{{hash="{hash}",site="S"}} 1',
        f'stationkeeper_config_valid{{site="S"}} {valid}',
        'stationkeeper_emergency_stop_latched{site="S"} 0',
        f'stationkeeper_modbus_errors_total{{device="B1",outcome="unknown",site="S"}} {errors}',
        'stationkeeper_modbus_errors_total{device="M1",outcome="unknown",site="S"} 7',
    ]
    lines += [
        f'stationkeeper_last_sample_timestamp_seconds{{device="{name}",site="S"}} {moment}'
        for name, moment in taken.items()
    ]
    return Metrics("\n".join(lines))


def sight(after_s: float, unit: Service = UNIT, metrics: Metrics | None = None, **more: object) -> Sight:
    """What is seen so many seconds after the switch, with a sample every two seconds."""
    beat = START_S + after_s // 2 * 2
    seen = metrics or told(**{"samples": {"B1": beat, "M1": beat}} | more)  # type: ignore[arg-type]
    return Sight(START_S + after_s, after_s, unit, seen)


def run(at: Callable[[float], Sight], wanted: Wanted = WANTED) -> tuple[bool | None, str, float]:
    """Watch on a simulated clock; returns verdict, problems and seconds."""

    def clock() -> Iterator[Sight]:
        for second in range(1, 1000):
            yield at(float(second))

    sights = clock()
    verdict, seconds = watch(Gate(wanted, TIMES, sight(0)), lambda: next(sights), lambda _: None)
    return verdict.passed, "; ".join(verdict.problems), seconds


def test_a_healthy_release_passes_after_the_whole_watch() -> None:
    assert run(sight) == (True, "", 45.0)


def test_a_controller_that_crashes_after_20_s_fails_at_once() -> None:
    crashed = replace(UNIT, restarts=1, pid=4812)
    passed, problems, seconds = run(lambda s: sight(s, crashed if s > 20 else UNIT))
    assert passed is False
    assert "ended by itself" in problems
    assert seconds == 21.0


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        (replace(UNIT, active="failed"), "within 41 s of the switch; its unit is failed"),
        (replace(UNIT, active="activating"), "its unit is activating"),
        (replace(UNIT, pid=4812), "ended by itself"),
    ],
)
def test_a_controller_that_does_not_stay_fails(unit: Service, words: str) -> None:
    passed, problems, seconds = run(lambda s: sight(s, unit if s > 40 else UNIT))
    assert (passed, seconds) == (False, 41.0)
    assert words in problems


def test_a_systemd_that_does_not_answer_for_a_moment_decides_nothing() -> None:
    silent = replace(UNIT, active="unknown", restarts=0, pid=0)
    assert run(lambda s: sight(s, silent if 5 < s < 9 else UNIT))[0] is True


def test_a_systemd_that_does_not_answer_any_more_fails_when_the_time_is_over() -> None:
    silent = replace(UNIT, active="unknown", restarts=0, pid=0)
    passed, problems, seconds = run(lambda s: sight(s, silent if s > 5 else UNIT))
    assert (passed, seconds) == (False, 75.0)
    assert "systemd does not answer" in problems


def test_a_reloading_unit_is_alive() -> None:
    assert run(lambda s: sight(s, replace(UNIT, active="reloading") if s < 3 else UNIT))[0] is True


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"hash": "old"}, "configuration cafe is not in force"),
        ({"valid": 0}, "refuses the configuration"),
        ({"samples": {"M1": START_S + 1}}, "B1 has given no sample since the switch"),
    ],
)
def test_what_stays_wrong_fails_when_the_time_is_over(metrics: dict[str, object], words: str) -> None:
    passed, problems, seconds = run(lambda s: sight(s, **metrics))
    assert (passed, seconds) == (False, 75.0)
    assert words in problems


def test_a_controller_without_metrics_fails() -> None:
    passed, problems, _ = run(lambda s: Sight(START_S + s, s, UNIT, None))
    assert passed is False
    assert "metrics do not answer" in problems


def test_another_release_than_the_wanted_one_fails() -> None:
    passed, problems, _ = run(lambda s: sight(s, replace(UNIT, release="old")))
    assert passed is False
    assert "runs release old, not new" in problems


def test_a_sample_from_before_the_switch_does_not_count() -> None:
    before = told(samples={"B1": START_S, "M1": START_S})
    passed, problems, _ = run(lambda s: sight(s, metrics=before))
    assert passed is False
    assert "B1 has given no sample since the switch; M1" in problems


def test_a_device_that_falls_silent_within_the_watch_fails() -> None:
    stuck = {"B1": START_S + 10, "M1": START_S + 10}
    passed, problems, _ = run(lambda s: sight(s, **({"samples": stuck} if s > 10 else {})))
    assert passed is False
    assert "B1 has given no sample for" in problems


def test_a_first_sample_that_comes_late_still_passes() -> None:
    silent = {"M1": START_S + 2}
    wanted = replace(WANTED, age_s=200)
    passed, _, seconds = run(lambda s: sight(s, **({"samples": silent} if s < 60 else {})), wanted)
    assert (passed, seconds) == (True, 60.0)


def test_one_lost_answer_is_tolerated_and_a_row_of_them_is_not() -> None:
    assert run(lambda s: sight(s, errors=int(s > 10)))[0] is True
    passed, problems, seconds = run(lambda s: sight(s, errors=max(0, int(s) - 10)))
    assert (passed, seconds) == (False, 13.0)
    assert "3 failed exchanges with devices since the switch" in problems


def test_a_clock_that_is_set_meanwhile_decides_nothing() -> None:
    def jumping(second: float) -> Sight:
        seen = sight(second)
        return replace(seen, at_s=seen.at_s - 86_400) if second > 5 else seen

    assert run(jumping) == (True, "", 45.0)


def test_only_devices_that_answered_before_are_required() -> None:
    before = sight(0, samples={"B1": START_S - 3, "M1": START_S - 500})
    assert required_devices(before, ["B1", "M1", "NEW"], 11) == ("B1",)


@pytest.mark.parametrize(
    "before", [Sight(START_S, 0, UNIT, None), sight(0, replace(UNIT, active="activating"))]
)
def test_every_device_is_required_when_nothing_was_told_before(before: Sight) -> None:
    assert required_devices(before, ["B1", "M1"], 11) == ("B1", "M1")
