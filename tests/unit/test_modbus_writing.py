"""The write engine against a simulated battery with faults, on the simulation's own time."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from modbus_writing_bench import QUICK, Bench, run

from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.modbus.reading import Reader
from stationkeeper.modbus.writing.execute import execute
from stationkeeper.modbus.writing.request import Verify


@pytest.mark.criterion("MW-1")
def test_a_dry_run_sends_no_write_and_says_the_exact_words(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.session.dry_run = True
        result = await execute(bench.session, bench.setpoint(10))
        assert (result.outcome, result.changed) == (None, True)
        assert result.words == (0, 10000)
        assert result.diff() == (
            {"value": "40 kW", "registers": {"holding 0": "0x0000", "holding 1": "0x9C40"}},
            {"value": "10 kW", "registers": {"holding 0": "0x0000", "holding 1": "0x2710"}},
        )
        same = await execute(bench.session, bench.setpoint(40))
        assert (same.outcome, same.changed) == (Outcome.UNCHANGED, False)
        assert bench.server.writes() == 0
        assert bench.gate.intents == []

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-3")
def test_a_level_is_written_once(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        first = await execute(bench.session, bench.setpoint(10))
        assert (first.outcome, first.changed) == (Outcome.VERIFIED, True)
        again = await execute(bench.session, bench.setpoint(10))
        assert (again.outcome, again.changed) == (Outcome.UNCHANGED, False)
        # Within half a step (0.001 kW) of what is there.
        near = await execute(bench.session, replace(bench.setpoint(10), value=bench.setpoint(10).value))
        assert near.outcome is Outcome.UNCHANGED
        assert len(bench.writes) == 1

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-3")
@pytest.mark.parametrize("semantic", ["refresh", "pulse"])
def test_refresh_and_pulse_always_write(semantic: Any, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        plan = bench.setpoint(40)
        plan = replace(plan, request=replace(plan.request, semantic=semantic))
        result = await execute(bench.session, plan)
        assert (result.outcome, result.changed) == (Outcome.VERIFIED, False), "effective before as after"
        changing = replace(bench.setpoint(10), request=replace(bench.setpoint(10).request, semantic=semantic))
        result = await execute(bench.session, changing)
        assert (result.outcome, result.changed) == (Outcome.VERIFIED, True)
        assert len(bench.writes) == 2

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-3")
def test_a_command_register_at_its_level_without_the_effect_is_written(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("hold_value", point="setpoint_kw", value=0)
        result = await execute(bench.session, bench.setpoint(40))
        assert result.changed, "the set-point in force is another one, whatever the command register says"
        assert len(bench.writes) == 1
        assert result.outcome is Outcome.ACCEPTED_UNVERIFIED

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-5")
def test_a_value_of_several_registers_leaves_in_one_request(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await execute(bench.session, bench.setpoint(-70.5))
        assert [(entry["function"], entry["address"], entry["written"]) for entry in bench.writes] == [
            (16, 0, [0xFFFE, 0xEC9C])
        ]

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-7")
@pytest.mark.parametrize(
    ("code", "outcome", "words", "writes"),
    [
        (1, Outcome.REJECTED, "illegal function", 1),
        (2, Outcome.REJECTED, "illegal data address", 1),
        (3, Outcome.REJECTED, "illegal data value", 1),
        (4, Outcome.REJECTED, "device failure or local mode", 1),
        (8, Outcome.REJECTED, "memory parity", 2),
        (10, Outcome.UNREACHABLE, "configuration error", 1),
    ],
)
def test_exceptions_that_end_a_write(
    code: int, outcome: Outcome, words: str, writes: int, tmp_path: Path
) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("exception", code=code, functions={16})
        result = await execute(bench.session, bench.setpoint(10))
        assert (result.outcome, result.changed) == (outcome, False)
        assert f"exception {code}" in result.message
        assert words in result.message
        assert len(bench.writes) == writes
        assert bench.gate.rows == [result]

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-7")
def test_acknowledge_is_followed_until_the_value_is_there(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("acknowledge", functions={16})
        result = await execute(bench.session, bench.setpoint(10))
        assert result.outcome is Outcome.VERIFIED
        assert "exception 5" in result.attempts[0].answer
        bench.fault("slow_apply", seconds=8)
        late = await execute(bench.session, bench.setpoint(20, window_s=3))
        assert late.outcome is Outcome.ACCEPTED_UNVERIFIED

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-7")
def test_busy_is_backed_off_until_its_time_is_up(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("busy", functions={16}, count=3)
        result = await execute(bench.session, bench.setpoint(10))
        assert result.outcome is Outcome.VERIFIED
        assert bench.clock.sleeps[:3] == pytest.approx([0.1, 0.2, 0.4])
        assert len(result.attempts) == 4
        bench.fault("busy", functions={16})
        before = bench.clock.now()
        refused = await execute(bench.session, bench.setpoint(20))
        assert (refused.outcome, refused.changed) == (Outcome.REJECTED, False)
        assert "raise busy_timeout_s" in refused.message
        assert 1 < bench.clock.now() - before <= 3

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-7")
def test_a_silent_target_is_asked_again_and_called_an_offline_unit(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("gateway_silent", count=1)
        assert (await execute(bench.session, bench.setpoint(10))).outcome is Outcome.VERIFIED
        bench.fault("gateway_silent", functions={16}, count=1)
        retried = await execute(bench.session, bench.setpoint(20))
        assert retried.outcome is Outcome.VERIFIED
        assert len(retried.attempts) == 2, "read back between the two, as it may have been applied"
        bench.fault("gateway_silent")
        gone = await execute(bench.session, bench.setpoint(30))
        assert gone.outcome is Outcome.UNREACHABLE
        assert "the unit behind it is offline" in gone.message
        assert "gateway is online" in gone.message

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-8")
def test_an_unanswered_write_that_was_applied_is_found_and_not_repeated(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("close_mid_frame", functions={16}, count=1)
        result = await execute(bench.session, bench.setpoint(10))
        assert (result.outcome, result.changed) == (Outcome.VERIFIED, True)
        assert len(bench.writes) == 1
        write = bench.requests().index(bench.writes[0])
        after = bench.requests()[write + 1]
        assert after["client"] != bench.writes[0]["client"], "read back on a new connection"
        assert bench.clock.sleeps[0] == bench.session.patience.settle_s, "after the longest response time"

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-8")
@pytest.mark.parametrize(("semantic", "writes"), [("level", 2), ("refresh", 2), ("pulse", 1)])
def test_only_idempotent_writes_are_repeated_and_no_more_than_twice(
    semantic: Any, writes: int, tmp_path: Path
) -> None:
    async def scenario(bench: Bench) -> None:
        # Neither applied nor answered: what the device sends is the answer of a write it ignored.
        bench.fault("ignore", functions={16})
        bench.fault("close_mid_frame", functions={16})
        plan = bench.setpoint(10)
        result = await execute(bench.session, replace(plan, request=replace(plan.request, semantic=semantic)))
        assert result.outcome is Outcome.UNKNOWN
        assert "it may still act" in result.message
        assert result.changed, "nobody knows, so it is never reported as not applied"
        assert len(bench.writes) == writes

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-8")
def test_a_refused_repetition_says_nothing_about_the_first_attempt(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("slow_apply", seconds=60, functions={16}, count=1)
        bench.fault("close_mid_frame", functions={16}, count=1)
        bench.fault("exception", code=3, functions={16}, after=1)
        result = await execute(bench.session, bench.setpoint(10))
        assert result.outcome is Outcome.UNKNOWN
        assert "attempt 2" in result.message
        await bench.clock.sleep(60)
        assert await bench.client.read(1, "holding", 0, 2) == [0, 10000], "it came after all"

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-8")
def test_an_unanswered_refresh_of_the_value_in_force_proves_nothing(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("ignore", functions={16})
        bench.fault("close_mid_frame", functions={16})
        plan = bench.setpoint(40)
        result = await execute(
            bench.session, replace(plan, request=replace(plan.request, semantic="refresh"))
        )
        assert result.outcome is Outcome.UNKNOWN, "40 kW was there before, so reading it says nothing"

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-10")
@pytest.mark.parametrize(
    ("name", "function", "same_connection"),
    [("limit_kw", 3, False), ("ratio", 3, False), ("power_command_kw", 3, True), ("relay", 1, False)],
)
def test_a_stale_answer_to_one_read_cannot_pass_for_the_next(
    name: str, function: int, same_connection: bool, tmp_path: Path
) -> None:
    """Each read has another length than the one before, or a connection of its own."""

    async def scenario(bench: Bench) -> None:
        proof = replace(QUICK, samples=3, window_s=9, hold_s=2, other_master_cycle_s=1)
        result = await execute(bench.session, bench.plan(name, 1, verify=proof))
        assert result.outcome is Outcome.VERIFIED
        reads = [
            ((entry["count"] + 7) // 8 if function == 1 else entry["count"], entry["client"])
            for entry in bench.requests(function)
            if "words" in entry
        ]
        assert len(reads) > 5
        for (size, client), (next_size, next_client) in pairwise(reads):
            assert size != next_size or client != next_client, reads
        assert not same_connection or len({client for _, client in reads}) == 1

    run(tmp_path, scenario)


def impatient(bench: Bench) -> None:
    """Give the session a client that waits one second for an answer."""
    bench.session.client = bench.client = StrictClient("127.0.0.1", bench.port, 1, 5)
    bench.session.reader = Reader(bench.client, 1)


@pytest.mark.criterion("MW-10")
def test_a_device_that_is_silent_beyond_its_registers_is_read_exactly(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.client.close()
        impatient(bench)
        bench.fault("lost_request", functions={3}, address=21)
        result = await execute(bench.session, bench.plan("limit_kw", 5))
        assert result.outcome is Outcome.VERIFIED
        assert [sample.error for sample in result.samples] == [""]

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-10")
def test_a_gateway_that_has_lost_count_gives_no_proof(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.client.close()
        impatient(bench)
        bench.fault("stale_answer", functions={3}, after=1, count=1)
        plan = bench.plan("power_command_kw", 10, verify=replace(QUICK, window_s=5))
        result = await execute(bench.session, plan)
        assert result.outcome is Outcome.VERIFIED
        stale, proof = result.samples
        assert "bytes" in stale.error, "the answer to another read has another length"
        assert proof.reading is not None

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-10")
def test_after_an_error_the_proof_is_read_on_a_new_connection(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("busy", functions={16}, count=1)
        await execute(bench.session, bench.setpoint(10))
        last_write = max(n for n, entry in enumerate(bench.requests()) if entry in bench.writes)
        assert bench.requests()[last_write + 1]["client"] != bench.requests()[last_write]["client"]

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-10")
def test_another_master_is_seen_while_the_value_has_to_stay(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("second_master", value=50, seconds=1.5)
        plan = bench.setpoint(10, samples=1, window_s=5, hold_s=3, other_master_cycle_s=1.5)
        result = await execute(bench.session, plan)
        assert result.outcome is Outcome.CONTENDED
        assert "10 kW" in result.message
        assert "50 kW" in result.message

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-11")
def test_a_write_only_register_is_sent_and_not_called_verified(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        result = await execute(
            bench.session, bench.plan("reset", 1, verify=Verify(mode="none"), semantic="pulse")
        )
        assert result.outcome is Outcome.ACCEPTED_UNVERIFIED
        assert result.is_acceptable
        assert result.warnings
        assert bench.requests(3) == []

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-11")
def test_a_write_only_register_can_be_proven_by_another_one(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        verify = replace(QUICK, mode="readback", place=bench.places.place("status"), value=2)
        result = await execute(bench.session, bench.plan("reset", 1, verify=verify, semantic="pulse"))
        assert (result.outcome, result.changed) == (Outcome.VERIFIED, False)

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-12")
@pytest.mark.parametrize(("window_s", "outcome"), [(15, Outcome.VERIFIED), (5, Outcome.ACCEPTED_UNVERIFIED)])
def test_a_device_that_applies_after_eight_seconds(window_s: float, outcome: Outcome, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("slow_apply", seconds=8)
        result = await execute(bench.session, bench.setpoint(10, window_s=window_s))
        assert result.outcome is outcome
        assert result.is_acceptable == (outcome is Outcome.VERIFIED)
        assert outcome is Outcome.VERIFIED or "longer verify.window_s" in result.message

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-13")
def test_a_device_that_limits_the_value_fails_with_both_numbers(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("clamp", value=50)
        result = await execute(bench.session, bench.setpoint(80))
        assert not result.is_acceptable
        assert result.outcome is Outcome.REJECTED
        assert "asked 80 kW, the device holds 50 kW" in result.message

    run(tmp_path, scenario)


def test_a_device_that_ignores_the_write_is_never_called_verified(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.fault("ignore")
        result = await execute(bench.session, bench.setpoint(10))
        assert result.outcome is Outcome.ACCEPTED_UNVERIFIED
        assert "asked 10 kW, still 40 kW" in result.message

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-18")
def test_compare_and_set(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        refused = await execute(bench.session, bench.plan("power_command_kw", 10, expect=39))
        assert refused.outcome is Outcome.BLOCKED_BY_INTERLOCK
        assert "is 40 kW, not the expected 39 kW" in refused.message
        assert bench.writes == []
        done = await execute(bench.session, bench.plan("power_command_kw", 10, expect=40))
        assert done.outcome is Outcome.VERIFIED
        bench.fault("hold_value", point="ratio", value=0.1)
        held = await execute(bench.session, bench.plan("ratio", 0.3, expect=0.1))
        assert held.left, "0.1 is compared as the float32 that it is on the device"

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-4")
def test_a_step_that_is_too_large_is_not_sent(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        refused = await execute(bench.session, bench.plan("power_command_kw", 80, max_step=30))
        assert refused.outcome is Outcome.REJECTED
        assert "from 40 kW to 80 kW is more than max_step 30" in refused.message
        assert bench.writes == []
        done = await execute(bench.session, bench.plan("power_command_kw", 70, max_step=30))
        assert done.outcome is Outcome.VERIFIED

    run(tmp_path, scenario)


@pytest.mark.parametrize("function", [None, 6, 16, 22])
def test_a_field_leaves_the_other_bits_of_its_register(function: int | None, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.client.write(1, 21, [0x0350])
        result = await execute(bench.session, bench.plan("mode", 0xA, function=function))
        assert (result.outcome, result.changed) == (Outcome.VERIFIED, True)
        bit = await execute(bench.session, bench.plan("grid_forming", 1, function=function))
        assert bit.outcome is Outcome.VERIFIED
        assert await bench.client.read(1, "holding", 21, 1) == [0x0A51]
        assert {entry["function"] for entry in bench.writes[1:]} == {function or 6}

    run(tmp_path, scenario)


def test_a_register_that_another_master_changes_is_not_merged(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.client.write(1, 21, [0x0350])
        read = bench.client.read
        reads = 0

        async def other_master_in_between(*asked: Any) -> list[int]:
            nonlocal reads
            reads += 1
            if reads == 2:
                await bench.client.write(1, 21, [0x0360])
            return await read(*asked)

        bench.client.read = other_master_in_between  # type: ignore[method-assign]
        result = await execute(bench.session, bench.plan("mode", 0xA))
        assert result.outcome is Outcome.CONTENDED
        assert "changes while it is being read" in result.message
        assert await read(1, "holding", 21, 1) == [0x0360]

    run(tmp_path, scenario)


@pytest.mark.parametrize("function", [None, 5, 15])
def test_a_coil_is_written_and_proven(function: int | None, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        result = await execute(bench.session, bench.plan("relay", True, function=function))
        assert (result.outcome, result.changed) == (Outcome.VERIFIED, True)
        assert [entry["function"] for entry in bench.writes] == [function or 5]

    run(tmp_path, scenario)


def test_a_float_is_proven_as_the_float_that_the_device_holds(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        result = await execute(bench.session, bench.plan("ratio", 0.1))
        assert result.outcome is Outcome.VERIFIED
        again = await execute(bench.session, bench.plan("ratio", 0.1))
        assert again.outcome is Outcome.UNCHANGED

    run(tmp_path, scenario)


def test_a_device_that_cannot_be_reached_is_unreachable_and_unwritten(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.server.close()
        result = await execute(bench.session, bench.setpoint(10))
        assert (result.outcome, result.changed) == (Outcome.UNREACHABLE, False)
        assert "nothing was written" in result.message
        assert bench.gate.rows == []

    run(tmp_path, scenario)
