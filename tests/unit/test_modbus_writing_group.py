"""Groups, recipes and interlocks against the simulated battery."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from modbus_writing_bench import QUICK, Bench, profile_content, run

from stationkeeper.modbus.outcome import Outcome
from stationkeeper.modbus.writing.execute import execute
from stationkeeper.modbus.writing.group import run_group, run_recipe
from stationkeeper.modbus.writing.interlocks import Given, Interlock, Moving
from stationkeeper.modbus.writing.parameters import interlock_of
from stationkeeper.modbus.writing.points import recipe_requests
from stationkeeper.modbus.writing.request import Plan, Verify, plan

INTERLOCK: dict[str, Any] = {
    "name": None,
    "point": None,
    "address": None,
    "reference": None,
    "max_age_s": 10,
    "max_step": None,
    "when": "always",
    "value": None,
    "read_at": None,
    "equals": None,
    "not_equals": None,
    "min": None,
    "max": None,
}


def recipe(bench: Bench, name: Any, power_kw: Any = None, verify: Verify = QUICK) -> list[Plan]:
    return [
        plan(request) for request in recipe_requests(bench.places, name, power_kw=power_kw, verify=verify)
    ]


def interlocked(bench: Bench, value: float, **entry: Any) -> Plan:
    """A set-point of `value` with one interlock as the module takes it."""
    interlocks = tuple(interlock_of(INTERLOCK | entry, bench.places, value))
    made = bench.setpoint(value)
    return replace(made, request=replace(made.request, interlocks=interlocks))


@pytest.mark.criterion("MW-6")
def test_a_group_is_written_in_its_order(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        plans = [bench.plan("limit_kw", 50), bench.plan("watchdog_timeout_s", 30), bench.plan("relay", 1)]
        result = await run_group(bench.session, plans, recipe(bench, "zero_power"))
        assert (result.outcome, result.changed, result.failed) == (Outcome.VERIFIED, True, False)
        assert result.written == ["limit_kw", "watchdog_timeout_s", "relay"]
        assert [entry["address"] for entry in bench.writes] == [20, 4, 8]
        again = await run_group(bench.session, plans, [])
        assert (again.outcome, again.changed) == (Outcome.UNCHANGED, False)

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-6")
@pytest.mark.parametrize("kind", ["exception", "ignore", "close_mid_frame"])
def test_a_failure_on_the_way_lists_what_is_written_and_brings_the_battery_to_zero(
    kind: str, tmp_path: Path
) -> None:
    async def scenario(bench: Bench) -> None:
        if kind == "close_mid_frame":
            bench.fault("ignore", functions={6}, address=20)
        bench.fault(kind, functions={6}, address=20, **({"code": 2} if kind == "exception" else {}))
        plans = [bench.plan("watchdog_timeout_s", 30), bench.plan("limit_kw", 50), bench.setpoint(60)]
        result = await run_group(bench.session, plans, recipe(bench, "zero_power"))
        assert result.failed
        assert result.written == ["watchdog_timeout_s"]
        assert [step.name for step in result.steps] == ["watchdog_timeout_s", "limit_kw"]
        assert "step 2 of 3, limit_kw" in result.message
        assert "written before it: watchdog_timeout_s" in result.message
        assert "then on_partial: power_command_kw verified" in result.message
        assert await bench.client.read(1, "holding", 0, 2) == [0, 0], "60 kW never left, 40 kW is ended"
        expected = {"exception": "rejected", "ignore": "accepted_unverified", "close_mid_frame": "unknown"}
        assert result.outcome == expected[kind]

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-6")
def test_a_first_step_that_is_refused_has_changed_nothing_and_ends_nothing(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("exception", code=2, functions={6}, address=20)
        plans = [bench.plan("limit_kw", 50), bench.setpoint(60)]
        result = await run_group(bench.session, plans, recipe(bench, "zero_power"))
        assert (result.failed, result.written, result.on_partial) == (True, [], [])
        assert await bench.client.read(1, "holding", 0, 2) == [0, 40000]

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-6", "MW-17")
def test_an_interlock_of_a_later_step_keeps_the_first_one_back(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("hold_value", point="alarms", value=2)
        plans = [bench.plan("limit_kw", 50), interlocked(bench, 60, kind="alarms")]
        result = await run_group(bench.session, plans, [])
        assert (result.failed, result.outcome) == (True, Outcome.BLOCKED_BY_INTERLOCK)
        assert bench.writes == []

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-17")
def test_a_group_towards_zero_passes_an_alarm(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("hold_value", point="alarms", value=2)
        result = await run_group(bench.session, [interlocked(bench, 30, kind="alarms")], [])
        assert result.outcome is Outcome.VERIFIED

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-1", "MW-6")
def test_a_dry_run_of_a_group_counts_on_its_own_steps(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.session.dry_run = True
        steps = [bench.plan("power_command_kw", value, max_step=30) for value in (70, 100)]
        result = await run_group(bench.session, steps, [])
        assert (result.outcome, result.failed, result.changed) == (None, False, True)
        assert [step.words for step in result.steps] == [(1, 4464), (1, 34464)]
        assert bench.server.writes() == 0

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-5")
def test_a_device_that_takes_values_in_pieces_is_disabled_meanwhile(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        result = await run_recipe(bench.session, recipe(bench, "set_power", 10), [])
        assert result.outcome is Outcome.VERIFIED
        assert [(entry["function"], entry["address"], entry["written"]) for entry in bench.writes] == [
            (6, 50, [0]),
            (16, 0, [0, 10000]),
            (6, 50, [1]),
        ]
        again = await run_recipe(bench.session, recipe(bench, "set_power", 10), [])
        assert (again.outcome, again.changed) == (Outcome.UNCHANGED, False)
        assert len(bench.writes) == 3, "nothing is disabled for nothing"

    points = profile_content()["points"] | {"enable": {"table": "holding", "address": 50, "type": "uint16"}}

    def steps(power_kw: Any) -> list[dict[str, Any]]:
        around = [{"point": "enable", "value": 0}, {"point": "enable", "value": 1}]
        return [around[0], {"point": "power_command_kw", "value": power_kw}, around[1]]

    recipes = {"zero_power": steps(0), "set_power": steps("$power_kw")}
    run(tmp_path, scenario, points=points, recipes=recipes, atomic=False)


def test_a_recipe_is_proven_by_its_effect_and_a_failure_by_another_recipe(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        stopped = await run_recipe(bench.session, recipe(bench, "stop"), [])
        assert (stopped.outcome, stopped.written) == (
            Outcome.VERIFIED,
            ["power_command_kw", "operating_command"],
        )
        assert stopped.steps[-1].effect is not None
        assert stopped.steps[-1].effect.place.name == "setpoint_kw"
        bench.fault("hold_value", point="setpoint_kw", value=5)
        failed = await run_recipe(bench.session, recipe(bench, "release"), recipe(bench, "zero_power"))
        assert (failed.failed, failed.outcome) == (True, Outcome.ACCEPTED_UNVERIFIED)
        assert "asked 0 kW, still 5 kW" in failed.message

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-17")
@pytest.mark.parametrize(
    ("fault", "value", "entry", "blocked"),
    [
        ({"point": "alarms", "value": 1}, 60, {"kind": "alarms"}, "alarms: is 1, must be 0"),
        ({"point": "alarms", "value": 1}, 30, {"kind": "alarms"}, ""),
        ({"point": "soe_percent", "value": 4}, 60, {"kind": "soe_window"}, "is 4, must be at least 5"),
        ({"point": "soe_percent", "value": 4}, 30, {"kind": "soe_window"}, ""),
        ({"point": "soe_percent", "value": 4}, -10, {"kind": "soe_window"}, ""),
        ({"point": "soe_percent", "value": 96}, -10, {"kind": "soe_window"}, "is 96, must be at most 95"),
        ({"point": "soe_percent", "value": 96}, 0, {"kind": "soe_window"}, ""),
        ({"point": "power_kw", "value": -5}, 60, {"kind": "measured_step", "max_step": 50}, "at least 10"),
        ({"point": "power_kw", "value": 15}, 60, {"kind": "measured_step", "max_step": 50}, ""),
        ({"point": "power_kw", "value": -5}, 0, {"kind": "measured_step", "max_step": 1}, ""),
        (
            {"point": "local", "value": 1},
            60,
            {"kind": "condition", "point": "local", "not_equals": 1},
            "is 1",
        ),
        ({"point": "local", "value": 0}, 60, {"kind": "condition", "point": "local", "not_equals": 1}, ""),
        (
            {"point": "local", "value": 0},
            60,
            {"kind": "condition", "point": "local", "equals": 2},
            "must be 2",
        ),
        ({"point": "local", "value": 7}, 60, {"kind": "condition", "point": "local", "max": 5}, "at most 5"),
    ],
)
def test_interlocks_on_values_of_the_same_run(
    fault: dict[str, Any], value: float, entry: dict[str, Any], blocked: str, tmp_path: Path
) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("hold_value", **fault)
        result = await execute(bench.session, interlocked(bench, value, **entry))
        if blocked:
            assert result.outcome is Outcome.BLOCKED_BY_INTERLOCK
            assert blocked in result.message
            assert (bench.writes, result.changed) == ([], False)
        else:
            assert result.outcome is Outcome.VERIFIED

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-17")
@pytest.mark.parametrize(
    ("kind", "point"), [("soe_window", "soe_percent"), ("measured_step", "temperature_c")]
)
def test_a_missing_input_blocks(kind: str, point: str, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("sentinel", point=point)
        made = interlocked(bench, 60, kind=kind, point=point, max_step=1000)
        result = await execute(bench.session, made)
        assert result.outcome is Outcome.BLOCKED_BY_INTERLOCK
        assert "its input is missing" in result.message
        assert bench.writes == []

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-17")
def test_an_input_that_cannot_be_read_blocks(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        interlock = Interlock("alarms", bench.places.place("alarms"), equals=Decimal(0))
        bench.fault("exception", code=4, functions={4})
        made = bench.plan("power_command_kw", 60, interlocks=(interlock,))
        result = await execute(bench.session, made)
        assert result.outcome is Outcome.BLOCKED_BY_INTERLOCK
        assert "alarms: its input cannot be read" in result.message
        assert bench.writes == []

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-17")
def test_a_profile_in_local_mode_refuses_every_write(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("hold_value", point="local", value=1)
        for value in (60, 0):
            result = await execute(bench.session, bench.setpoint(value))
            assert result.outcome is Outcome.BLOCKED_BY_INTERLOCK
            assert "local mode: is 1, which forbids the write" in result.message
        assert bench.writes == []

    run(tmp_path, scenario, local_mode={"point": "local", "equals": 1})


@pytest.mark.criterion("MW-17")
def test_a_heartbeat_that_stands_still_makes_everything_stale(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        fresh = Interlock("fresh", Moving(bench.places.place("heartbeat"), 3))
        made = bench.setpoint(10)
        made = replace(made, request=replace(made.request, interlocks=(fresh,)))
        assert (await execute(bench.session, made)).outcome is Outcome.VERIFIED
        bench.fault("heartbeat_freeze")
        other = bench.setpoint(20)
        other = replace(other, request=replace(other.request, interlocks=(fresh,)))
        result = await execute(bench.session, other)
        assert result.outcome is Outcome.BLOCKED_BY_INTERLOCK
        assert "heartbeat has stood still for 3 s" in result.message
        assert len(bench.writes) == 1

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-17")
@pytest.mark.parametrize(
    ("value", "age_s", "blocked"),
    [
        (0, 5, ""),
        (1, 5, "is 1, must be 0"),
        (0, 11, "its input is 11.0 s old, allowed are 10 s"),
        (0, -5, "its input is -5.0 s old"),
        (None, 5, "its input is missing"),
        (0, None, "nobody says when its input was read"),
    ],
)
def test_a_value_that_an_earlier_task_has_read(
    value: int | None, age_s: float | None, blocked: str, tmp_path: Path
) -> None:
    async def scenario(bench: Bench) -> None:
        read_at = None if age_s is None else bench.clock.utc() - timedelta(seconds=age_s)
        given = Given(None if value is None else Decimal(value), read_at, 10)
        interlock = Interlock("latched", given, equals=Decimal(0))
        result = await execute(bench.session, bench.plan("power_command_kw", 60, interlocks=(interlock,)))
        assert (result.outcome is Outcome.BLOCKED_BY_INTERLOCK) == bool(blocked)
        assert blocked in result.message
        assert bool(bench.writes) != bool(blocked)

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-17")
def test_a_latch_on_this_host_lets_only_zero_pass(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        folder = tmp_path / "latch"
        missing = await execute(bench.session, interlocked(bench, 50, kind="latch", path=str(folder)))
        assert missing.outcome is Outcome.BLOCKED_BY_INTERLOCK, (
            "a folder that cannot be read counts as latched"
        )
        folder.mkdir()
        free = await execute(bench.session, interlocked(bench, 50, kind="latch", path=str(folder)))
        assert free.outcome is Outcome.VERIFIED
        (folder / "emergency_stop.json").touch()
        latched = await execute(bench.session, interlocked(bench, 60, kind="latch", path=str(folder)))
        assert latched.outcome is Outcome.BLOCKED_BY_INTERLOCK
        zero = await execute(bench.session, interlocked(bench, 0, kind="latch", path=str(folder)))
        assert zero.outcome is Outcome.VERIFIED

    run(tmp_path, scenario)
