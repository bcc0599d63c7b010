"""What holds a station, with a clock that the test sets: orders, windows, idleness, set-points."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from stationkeeper.controller.memory import read_memory, write_memory
from stationkeeper.controller.modes import Holds, Modes, Moment, Rules, Seen
from stationkeeper.controller.orders import Order, OrderState
from stationkeeper.controller.schema import Controller
from stationkeeper.controller.windows import Window, zone_of

# A Sunday. The window is open from 00:00 to 02:00 UTC.
MIDNIGHT = datetime(2026, 6, 7, tzinfo=UTC)
WINDOW = Window("sunday night", frozenset({6}), time(2), time(4), zone_of("Europe/Rome"))
HOUR = timedelta(hours=1)


class Bench:
    """A station's modes, with the clock and the orders in the test's hands."""

    def __init__(self, rules: Rules | None = None, memory: dict[str, Any] | None = None) -> None:
        self.now, self.synchronised = MIDNIGHT - HOUR, True
        self.rules = rules or Rules()
        self.latch: str | None = None
        self.unknown = False
        self.orders: dict[str, OrderState] = {}
        self.modes = Modes(memory)
        self.number = 0

    def order(self, kind: str, until: datetime | None = None, power_kw: float | None = None) -> None:
        self.number += 1
        order = Order(kind, "why", "ops", f"run-{self.number}", self.now, until, power_kw)
        self.orders[kind] = OrderState(order)

    def setpoint(self, power_kw: float = 40.0) -> None:
        self.order("setpoint", self.now + 24 * HOUR, power_kw)

    def look(self, after: timedelta = timedelta(0)) -> Holds:
        self.now += after
        return self.modes.update(
            Seen(self.latch, self.orders, self.unknown), Moment(self.now, self.synchronised), self.rules
        )

    def power_kw(self, after: timedelta = timedelta(0)) -> float | None:
        setpoint = self.look(after).setpoint
        return setpoint.power_kw if setpoint and setpoint.valid else None


@pytest.mark.criterion("CT-8")
def test_a_setpoint_from_before_the_start_is_never_followed_a_fresh_one_is() -> None:
    bench = Bench()
    bench.setpoint()
    assert bench.power_kw() is None
    assert bench.power_kw(HOUR) is None
    held = bench.look().setpoint
    assert held is not None
    assert "older than the last start or hold" in held.reason
    bench.setpoint()
    assert bench.power_kw() == 40


@pytest.mark.criterion("CT-8")
def test_a_setpoint_ends_and_stays_ended_also_when_the_clock_steps_back() -> None:
    bench = Bench()
    bench.look()
    bench.order("setpoint", bench.now + HOUR, -25.0)
    assert bench.power_kw() == -25
    assert bench.power_kw(HOUR - timedelta(seconds=1)) == -25
    assert bench.power_kw(timedelta(seconds=1)) is None
    assert bench.power_kw(-HOUR / 2) is None, "an ended set-point does not come back"


@pytest.mark.criterion("SM-3", "MT-4", "ES-5")
@pytest.mark.parametrize("hold", ["latch", "safe_mode", "maintenance", "order_unreadable", "config", "clock"])
def test_no_hold_gives_the_old_setpoint_back_not_even_one_given_during_it(hold: str) -> None:
    bench = Bench()
    bench.look()
    bench.setpoint(40.0)
    assert bench.power_kw() == 40
    before = dict(bench.orders)
    if hold == "latch":
        bench.latch = "smoke"
    elif hold == "order_unreadable":
        bench.orders["maintenance"] = OrderState(problem="not JSON")
    elif hold == "config":
        bench.rules = Rules(problems=("bad",))
    elif hold == "clock":
        bench.synchronised = False
    else:
        bench.order(hold, bench.now + HOUR)
    assert bench.power_kw() is None
    bench.setpoint(41.0)
    assert bench.power_kw() is None
    during = bench.orders["setpoint"]
    bench.latch, bench.rules, bench.synchronised = None, Rules(), True
    bench.orders = before | {"setpoint": during}
    assert bench.power_kw() is None
    bench.setpoint(42.0)
    assert bench.power_kw() == 42


def test_a_disk_that_does_not_answer_for_a_moment_holds_and_spends_nothing() -> None:
    bench = Bench()
    bench.look()
    bench.setpoint()
    assert bench.power_kw() == 40
    bench.latch, bench.unknown = "the disk does not answer", True
    assert bench.power_kw() is None
    bench.latch, bench.unknown = None, False
    assert bench.power_kw() == 40


@pytest.mark.criterion("CT-8")
def test_a_disk_that_answers_late_after_the_start_shows_no_fresh_setpoint() -> None:
    bench = Bench()
    bench.latch, bench.unknown = "the disk does not answer", True
    bench.look()
    bench.setpoint()
    bench.latch, bench.unknown = None, False
    assert bench.power_kw() is None


@pytest.mark.criterion("SM-3")
@pytest.mark.parametrize("kind", ["safe_mode", "maintenance"])
def test_an_order_that_runs_out_leaves_the_station_idle_until_a_fresh_setpoint(kind: str) -> None:
    bench = Bench()
    bench.look()
    bench.setpoint()
    bench.order(kind, bench.now + HOUR)
    held = bench.look()
    assert (held.maintenance is not None, bool(held.safe_mode)) == (
        kind == "maintenance",
        kind == "safe_mode",
    )
    assert held.idle is None
    ended = bench.look(HOUR)
    assert (ended.maintenance, ended.safe_mode) == (None, ())
    assert "ran out at" in str(ended.idle)
    assert bench.power_kw() is None
    # Also a restart knows, because the order is still there.
    bench.modes = Modes(bench.modes.memory())
    assert bench.look().idle is not None
    bench.setpoint()
    assert bench.power_kw() == 40
    assert bench.look().idle is None


def test_an_order_that_is_withdrawn_leaves_no_idleness() -> None:
    bench = Bench()
    bench.look()
    bench.order("safe_mode")
    assert bench.look().safe_mode
    assert bench.look(1000 * HOUR).safe_mode, "without an end it stands until it is withdrawn"
    bench.orders = {}
    assert bench.look() == Holds(None)


@pytest.mark.criterion("MT-3", "MT-4")
def test_a_window_opens_closes_and_leaves_the_station_idle() -> None:
    bench = Bench(Rules(windows=(WINDOW,)))
    assert bench.look() == Holds(None)
    bench.setpoint()
    assert bench.power_kw() == 40
    assert bench.look(HOUR).maintenance == "window sunday night"
    assert bench.power_kw() is None
    assert bench.look(2 * HOUR).maintenance is None
    assert "sunday night has ended: 0 kW until a fresh set-point" in str(bench.look().idle)
    assert bench.power_kw(24 * HOUR) is None
    bench.setpoint()
    assert bench.power_kw() == 40
    assert bench.look().idle is None


@pytest.mark.criterion("MT-4", "CT-8")
def test_a_window_that_ends_while_the_controller_is_down_leaves_it_idle_too(tmp_path: Path) -> None:
    rules = Rules(windows=(WINDOW,))
    bench = Bench(rules)
    assert bench.look(HOUR).maintenance
    path = tmp_path / "modes.json"
    assert write_memory(path, bench.modes.memory()) is None
    later = Bench(rules, read_memory(path))
    assert later.look(4 * HOUR).idle is not None
    assert write_memory(path, later.modes.memory()) is None
    assert Bench(rules, read_memory(path)).look(10 * HOUR).idle is not None
    # Where the programme goes on by itself, a window leaves nothing behind.
    goes_on = replace(rules, idle_afterwards=False)
    assert Bench(goes_on, bench.modes.memory()).look(4 * HOUR).idle is None


def test_a_memory_that_cannot_be_read_or_written_is_told(tmp_path: Path) -> None:
    path = tmp_path / "modes.json"
    assert read_memory(path) == {}
    for content in ("", "[]", '{"window": null}'):
        path.write_text(content)
        assert "cannot be understood" in str(Bench(None, read_memory(path)).look().idle)
    (tmp_path / "file").touch()
    assert "File exists" in str(write_memory(tmp_path / "file/modes.json", {"window": None, "idle": None}))


@pytest.mark.criterion("MT-7")
def test_without_a_synchronised_clock_the_schedule_stands_still_in_the_more_restrictive_state() -> None:
    rules = Rules(windows=(WINDOW,), require_clock=False)
    bench = Bench(rules)
    bench.synchronised = False
    assert "nobody knows whether a window is open" in str(bench.look().maintenance)
    bench.synchronised = True
    assert bench.look().maintenance is None
    bench.synchronised = False
    assert bench.look(HOUR + HOUR / 2).maintenance is None, "it does not begin by a clock that may be wrong"
    bench.synchronised = True
    assert bench.look().maintenance == "window sunday night"
    bench.synchronised = False
    assert bench.look(24 * HOUR).maintenance == "window sunday night", "nor does it end by one"
    bench.synchronised = True
    assert bench.look().maintenance is None


@pytest.mark.criterion("MT-7")
@pytest.mark.parametrize("kind", ["safe_mode", "maintenance"])
def test_no_order_runs_out_by_a_clock_that_may_be_wrong(kind: str) -> None:
    bench = Bench(Rules(require_clock=False))
    bench.look()
    bench.order(kind, bench.now + HOUR)
    bench.synchronised = False
    held = bench.look(24 * HOUR)
    assert held.maintenance or held.safe_mode
    bench.orders = {}
    bench.setpoint()
    assert bench.power_kw() is None
    assert "the clock is not synchronised" in bench.look().setpoint.reason  # type: ignore[union-attr]


@pytest.mark.criterion("SM-4")
def test_the_reasons_of_the_station_are_named() -> None:
    bench = Bench(Rules(problems=("config.yaml: x",)))
    bench.synchronised = False
    bench.order("safe_mode")
    bench.orders["setpoint"] = OrderState(problem="setpoint.json: is not JSON")
    codes = [cause.code for cause in bench.look().safe_mode]
    assert codes == ["order", "order_unreadable", "config", "clock"]
    bench.rules = Rules(require_clock=False)
    assert "clock" not in [cause.code for cause in bench.look().safe_mode]


def maintenance(**fields: Any) -> dict[str, Any]:
    window = {"name": "n", "days": ["sunday"], "start": "02:00", "end": "04:00"} | fields
    return {"components": [{"type": "maintenance_mode", "windows": [window]}]}


@pytest.mark.criterion("MT-1", "MT-2")
@pytest.mark.parametrize(
    ("section", "message"),
    [
        (maintenance(time_zone="Europe/Roma"), "no time zone 'Europe/Roma'"),
        # What YAML makes of 02:00 without quotes.
        (maintenance(start=120), "'120' is not a time of day; write it in quotes"),
        (maintenance(start="25:00"), "is not a time of day"),
        (maintenance(end="02:00"), "start and end are the same"),
        (maintenance(days=["sonntag"]), "days"),
        (maintenance(days=[]), "days"),
        (
            {"components": [{"type": "limits", "priority": 1}, {"type": "maintenance_mode", "priority": 1}]},
            "limits and maintenance_mode have the same priority",
        ),
        (
            {"components": [{"type": "limits", "priority": 1}, {"type": "maintenance_mode", "priority": 0}]},
            "the order is fixed",
        ),
    ],
)
def test_bad_windows_and_ties_are_refused_at_load(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Controller.model_validate(section)


def test_priorities_that_say_the_fixed_order_are_accepted() -> None:
    section = {
        "components": [
            {"type": "to_soe", "target_soe_percent": 50, "priority": 7},
            {"type": "maintenance_mode", "priority": 0, **maintenance()["components"][0]},
        ]
    }
    assert Controller.model_validate(section).rules.windows == (
        Window("n", frozenset({6}), time(2), time(4), zone_of("UTC")),
    )
