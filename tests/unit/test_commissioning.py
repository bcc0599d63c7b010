"""Commissioning finds what a device does wrong, measures its watchdog, and always leaves it at zero."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from commissioning_world import World, silence

from stationkeeper.commissioning import Options, OptionsError, Report, commission, judge_identity
from stationkeeper.commissioning.judge import find_fallback
from stationkeeper.commissioning.line import Line
from stationkeeper.commissioning.types import Observation
from stationkeeper.profiles import Profile, load_profile, parse_profile
from stationkeeper.station.devices import Target

TODAY = date(2026, 11, 21)


def target(profile: Profile, unit: int = 1) -> Target:
    return Target("B", profile, "192.0.2.1", 502, unit, profile.rating_kw)


def line(world: World, *, metered: bool = True) -> Line:
    meter = target(world.meter, 2) if metered else None
    client = world.client()
    return Line(target(world.profile), client, world, meter, client if metered else None)


def run(world: World, *, metered: bool = True, dry_run: bool = False, **options: Any) -> Report:
    return asyncio.run(
        commission(line(world, metered=metered), Options(**options), world, today=TODAY, dry_run=dry_run)
    )


def failed(report: Report) -> dict[str, str]:
    return {check.name: check.message for check in report.checks if not check.passed}


@pytest.mark.criterion("DV-2")
def test_a_good_battery_passes_and_its_watchdog_is_measured() -> None:
    world = World(timeout_s=8.0)
    report = run(world)
    assert report.passed, failed(report)
    names = [check.name for check in report.checks]
    assert names == [
        "identity",
        "state",
        "freshness",
        "quiet",
        "zero",
        "noise",
        "alarms",
        "sign",
        "watchdog",
        "end",
    ]
    # The plug was pulled at the last feeding; the fall-back came 8 s later and is seen within one look.
    assert report.proposal["measured_on"] == "2026-11-21"
    assert 8.0 <= report.proposal["measured_fallback_s"] <= 9.0
    last_feed = max(at for at, name, _ in world.writes if name == "controller_heartbeat")
    assert not [write for write in world.writes if last_feed < write[0] < last_feed + 8]
    assert report.left_at_zero
    assert world.setpoint_kw == 0
    assert world.held["watchdog_timeout_s"] == 10


@pytest.mark.criterion("DV-2")
@pytest.mark.parametrize(
    ("faults", "check", "message"),
    [
        ({"sign": -1}, "sign", r"commanded \+5 kW: it measures -[45].[19] kW: the sign is reversed"),
        ({"meter_sign": -1}, "sign", "its meter measures -5 kW: the sign is reversed"),
        ({"clamp_kw": 2.0}, "sign", "it measures 2.1 kW, more than 1 kW beside it|measures 1.9 kW"),
        ({"noise_kw": 0.8}, "noise", "at 0 kW it measures up to 0.8 kW, the profile says 0.5 kW"),
        ({"values": {"alarms": 2}}, "alarms", "active alarms: over_temperature"),
        ({"values": {"vendor_id": 1}}, "identity", "vendor_id is 1, not 21323"),
        ({"values": {"soe_percent": 4}}, "state", "holds 4 % of its energy, outside of 5 to 95 %"),
        ({"frozen": True}, "freshness", "heartbeat stands still"),
        ({"fallback": "none"}, "watchdog", r"it held (4.9|5.1) kW for 30 s of silence, or another master"),
        ({"fallback": "autonomous"}, "watchdog", "stood at -1.* kW of its own"),
        ({"timeout_s": 20.0}, "watchdog", "later than promised"),
        ({"timeout_s": 4.0}, "watchdog", "so soon that a controller may feed it too late"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_a_device_does_wrong_is_found(faults: dict[str, Any], check: str, message: str) -> None:
    world = World(**faults)
    report = run(world)
    assert not report.passed
    assert list(failed(report)) == [check]
    assert re.search(message, failed(report)[check]), failed(report)
    assert not report.proposal
    # What was never written to needs no zero; everything else was brought there.
    assert report.left_at_zero is (True if world.writes else None)
    assert abs(world.power_kw) < 0.01


def test_nothing_is_written_before_the_reads_are_all_right() -> None:
    for faults in ({"values": {"vendor_id": 1}}, {"frozen": True}, {"values": {"soe_percent": 99}}):
        world = World(**faults)
        assert not run(world).passed
        assert world.writes == []


def test_check_mode_only_reads_and_says_what_it_would_write() -> None:
    world = World()
    report = run(world, dry_run=True)
    assert report.passed
    assert world.writes == []
    assert report.planned == [
        "release", "zero_power", "set_power +5 kW", "silence for up to 30 s", "zero_power",
    ]  # fmt: skip


@pytest.mark.parametrize("profile", ["generic_battery", "hold_last_inverter"])
def test_another_master_is_noticed_before_anything_is_written(profile: str) -> None:
    world = World(load_profile(profile))
    assert world.profile.watchdog is not None
    cycle_s = world.profile.watchdog.timeout_s / 3
    sleep = world.sleep

    async def controller(seconds: float) -> None:
        # As slowly as a controller may feed.
        await sleep(seconds)
        world.held["controller_heartbeat"] = world.now_s // cycle_s

    world.sleep = controller  # type: ignore[method-assign]
    assert "another master writes controller_heartbeat" in failed(run(world))["quiet"]
    assert world.writes == []


def test_local_mode_refuses() -> None:
    content = load_profile("generic_battery").model_dump(mode="json", exclude_defaults=True)
    content["local_mode"] = {"point": "status", "equals": 1}
    profile = parse_profile(content, "altered")
    world = World(profile)
    assert "local mode" in failed(run(world))["state"]
    assert world.writes == []


def test_a_device_that_falls_silent_half_way_is_reported_as_not_proven() -> None:
    world = World()

    def silent_at_power(name: str, value: float) -> None:
        if name == "power_command_kw" and value:
            world.before_write = silence
            silence()

    world.before_write = silent_at_power
    report = run(world)
    assert "silence" in failed(report)["connection"]
    # It measures zero, but nobody could tell it to stay there.
    assert report.left_at_zero is False
    assert "NOT PROVEN" in failed(report)["end"]


@pytest.mark.parametrize("moment", [0, 3, 8, 20])
def test_an_interruption_ends_at_zero_too(moment: int) -> None:
    world = World()
    writes = 0

    async def main() -> Report:
        task = asyncio.current_task()
        assert task is not None

        def count(_name: str, _value: float) -> None:
            nonlocal writes
            if writes == moment:
                task.cancel()
            writes += 1

        world.before_write = count
        options = Options()
        return await commission(line(world), options, world, today=TODAY, dry_run=False)

    report = asyncio.run(main())
    assert "interrupted" in failed(report)
    assert report.left_at_zero
    assert world.setpoint_kw == 0
    assert abs(world.power_kw) < 0.01


def test_an_interruption_of_the_end_does_not_keep_it_from_zero() -> None:
    world = World()

    async def main() -> Report:
        task = asyncio.current_task()
        assert task is not None

        def cancel_at_the_end(name: str, value: float) -> None:
            if name == "power_command_kw" and value == 0 and world.power_kw > 4:
                world.before_write = lambda _name, _value: None
                task.cancel()

        world.before_write = cancel_at_the_end
        options = Options(measure_watchdog=False)
        return await commission(line(world), options, world, today=TODAY, dry_run=False)

    report = asyncio.run(main())
    assert report.left_at_zero
    assert abs(world.power_kw) < 0.01


def test_a_device_that_goes_its_own_way_is_stopped_at_the_end() -> None:
    world = World(load_profile("autonomous_inverter"), timeout_s=80.0, noise_kw=0.05)
    report = run(world)
    assert report.passed, failed(report)
    # A read feeds this device, so only its meter was read in silence.
    assert 80.0 <= report.proposal["measured_fallback_s"] <= 81.0
    assert not world.running
    assert world.writes[-1][1:] == ("operating_command", 0.0)


def test_without_a_meter_a_device_that_reads_feed_gets_one_look() -> None:
    world = World(load_profile("autonomous_inverter"), timeout_s=80.0, noise_kw=0.05)
    report = run(world, metered=False)
    assert report.passed, failed(report)
    assert 80.0 <= report.proposal["measured_fallback_s"] <= 88.0


def test_hold_last_is_confirmed_and_has_no_fallback_to_propose() -> None:
    world = World(load_profile("hold_last_inverter"), timeout_s=20.0)
    report = run(world)
    assert report.passed, failed(report)
    assert report.proposal == {}
    assert not world.running


def test_an_end_that_zero_does_not_reach_uses_the_stop() -> None:
    world = World(timeout_s=1e9)
    write = world.write

    def stuck(unit: int, address: int, words: list[int]) -> None:
        # Once it has power it echoes a zero and keeps its set-point.
        before = world.setpoint_kw
        write(unit, address, words)
        world.setpoint_kw = world.setpoint_kw or before

    world.write = stuck  # type: ignore[method-assign]
    report = run(world, measure_watchdog=False)
    assert report.passed, failed(report)
    assert world.writes[-1][1:] == ("operating_command", 0.0)
    assert not world.running


@pytest.mark.parametrize("power_kw", [0.5, 10.5, -5, float("nan")])
def test_a_power_that_is_not_low_or_not_visible_is_refused(power_kw: float) -> None:
    world = World()
    with pytest.raises(OptionsError, match="must be 3 to 10 kW"):
        run(world, power_kw=power_kw)
    assert world.writes == []


def test_identity_is_judged_alone() -> None:
    profile = load_profile("generic_meter")
    assert judge_identity(profile, {"vendor_id": 0x534B, "model_id": 2}).passed
    assert not judge_identity(profile, {"vendor_id": 0x534B}).passed


def test_a_fallback_stands_from_the_first_look_after_which_all_are_alike() -> None:
    battery = target(load_profile("generic_battery"))

    def looks(*powers: float) -> list[Observation]:
        return [Observation(10.0 + number, power_kw=power) for number, power in enumerate(powers)]

    found = find_fallback(battery, 5, looks(5, 5.2, 3, 0.4, 2, 0.1, -0.2), 9, by_meter=False)
    assert (found.kind, found.left_after_s, found.reached_after_s) == ("zero", 3.0, 6.0)
    assert find_fallback(battery, 5, looks(5, 5.5), 9, by_meter=False).kind == "held"
    assert find_fallback(battery, 5, looks(5, 5.5), 9, by_meter=True).kind == "unseen"
    assert find_fallback(battery, 5, [replace(looks(5)[0], power_kw=20.0)], 9, by_meter=False).kind == "other"
