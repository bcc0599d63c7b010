"""The fleet stop against simulated devices that obey, lie, lag, fight or are gone."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from modbus_rig import BATTERY, METER, Rig

from stationkeeper.modbus.client import Table
from stationkeeper.modbus.stop import (
    Endpoint,
    SiteState,
    StopOptions,
    StopResult,
    Target,
    allow_files,
    stop_devices,
)
from stationkeeper.profiles import Profile, load_profile, parse_profile
from stationkeeper.profiles.load import DATA
from stationkeeper.simulator.config import Station
from stationkeeper.simulator.device import DeviceException

FAST = StopOptions(window_s=6, hold_s=0.3, interval_s=0.05, connect_timeout_s=0.5, response_timeout_s=0.5)
WRITES = (5, 6, 15, 16, 22, 23)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "served.jsonl")
    yield rig
    rig.close()


def target(
    port: int, profile: Profile = BATTERY, *, meter: bool = True, meter_port: int | None = None
) -> Target:
    measured_by = Endpoint("127.0.0.1", meter_port or port, 2, METER) if meter else None
    return Target("wlce", f"bess-{port}", Endpoint("127.0.0.1", port, 1, profile), measured_by)


def stop(targets: Sequence[Target] | Target, **changes: Any) -> list[StopResult]:
    options = {name: getattr(FAST, name) for name in FAST.__slots__} | changes
    return stop_devices([targets] if isinstance(targets, Target) else targets, StopOptions(**options))


def altered(**changes: Any) -> Profile:
    content = yaml.safe_load((DATA / "generic_battery.yaml").read_text())
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = value
    return parse_profile(content, "test")


def mbpoll(port: int, unit: int) -> int:
    words = [
        "mbpoll",
        "-m",
        "tcp",
        "-p",
        str(port),
        "-a",
        str(unit),
        "-0",
        "-r",
        "2",
        "-t",
        "3:int",
        "-B",
        "-1",
        "-q",
    ]
    done = subprocess.run([*words, "127.0.0.1"], capture_output=True, text=True, check=True, timeout=20)
    return int(done.stdout.split()[-1])


def test_stops_and_proves_it_and_mbpoll_agrees(rig: Rig) -> None:
    port = rig.station()
    assert mbpoll(port, 1) > 40_000
    (result,) = stop(target(port))
    assert (result.state, result.changed, result.contended) == (SiteState.VERIFIED_ZERO, True, False)
    assert result.first_write_s is not None
    assert result.first_write_s < 1
    assert result.verified_s is not None
    assert result.verified_s >= FAST.hold_s
    assert result.first_write_at
    assert result.verified_at
    assert result.first_write_at < result.verified_at
    assert [entry["recipe"] for entry in result.writes] == ["zero_power"]
    assert abs(mbpoll(port, 1)) <= 1000
    assert abs(mbpoll(port, 2)) <= 1000


@pytest.mark.criterion("ES-2")
def test_the_first_request_is_the_zero_write(rig: Rig) -> None:
    port = rig.station()
    stop(target(port))
    first = rig.served[0]
    assert (first["unit"], first["function"], first["written"]) == (1, 16, [0, 0])


@pytest.mark.criterion("ES-6")
def test_a_second_stop_changes_nothing_and_still_verifies(rig: Rig) -> None:
    port = rig.station()
    assert stop(target(port))[0].changed
    (again,) = stop(target(port))
    assert (again.state, again.changed) == (SiteState.VERIFIED_ZERO, False)
    assert again.writes


@pytest.mark.criterion("ES-8")
def test_a_dry_run_sends_no_write_and_shows_the_words(rig: Rig) -> None:
    port = rig.station()
    gone = target(1, meter=False)
    planned, unreachable = stop([target(port), gone], dry_run=True)
    assert (planned.state, planned.changed) == (SiteState.PLANNED, True)
    assert planned.writes == [
        {
            "recipe": "zero_power",
            "point": "power_command_kw",
            "value": 0.0,
            "address": 0,
            "words": "0000 0000",
        }
    ]
    assert unreachable.state is SiteState.UNREACHABLE_DEADMAN_PENDING
    assert not [entry for entry in rig.served if entry["function"] in WRITES]
    assert mbpoll(port, 1) > 40_000
    stop(target(port))
    assert stop(target(port), dry_run=True)[0].changed is False


@pytest.mark.criterion("ES-4")
def test_a_device_that_acknowledges_and_ignores_has_failed(rig: Rig) -> None:
    def ignore(station: Station) -> None:
        station.devices[1].source.write = lambda *_: None  # type: ignore[method-assign]  # a lying device

    (result,) = stop(target(rig.station(alter=ignore)), window_s=1)
    assert (result.state, result.changed) == (SiteState.FAILED, True)
    assert "set-point in force reads 50 kW" in result.message
    assert "stop" in [entry["recipe"] for entry in result.writes]


def test_a_device_that_refuses_has_failed_at_once(rig: Rig) -> None:
    def refuse(station: Station) -> None:
        def write(*_: Any) -> None:
            raise DeviceException(4)

        station.devices[1].write = write  # type: ignore[method-assign]  # a device in local mode

    (result,) = stop(target(rig.station(alter=refuse)))
    assert result.state is SiteState.FAILED
    assert "device failure or local mode" in result.message


def test_a_device_whose_zero_is_refused_is_stopped_by_its_stop_command(rig: Rig) -> None:
    port = rig.station()
    profile = altered(
        recipes__zero_power=[{"point": "power_command_kw", "value": 1000}],
        recipes__stop=[{"point": "operating_command", "value": 0}],
    )
    (result,) = stop(target(port, profile))
    assert result.state is SiteState.VERIFIED_ZERO
    assert [entry["outcome"] for entry in result.writes] == ["rejected", "accepted_unverified"]
    assert mbpoll(port, 1) == 0


def test_a_busy_device_is_asked_again(rig: Rig) -> None:
    def busy(station: Station) -> None:
        write, left = station.devices[1].write, [4]

        def sometimes(*arguments: Any) -> None:
            left[0] -= 1
            if left[0] >= 0:
                raise DeviceException(6)
            write(*arguments)

        station.devices[1].write = sometimes  # type: ignore[method-assign]  # busy for four requests

    (result,) = stop(target(rig.station(alter=busy)))
    assert result.state is SiteState.VERIFIED_ZERO
    assert [entry["outcome"] for entry in result.writes] == ["rejected"] * 4 + ["accepted_unverified"]


def slow(seconds: float) -> Callable[[Station], None]:
    def alter(station: Station) -> None:
        source = station.devices[1].source
        write = source.write

        def later(name: str, value: float) -> None:
            asyncio.get_running_loop().call_later(seconds, write, name, value)

        source.write = later  # type: ignore[method-assign]  # applies late

    return alter


def test_a_slow_device_passes_within_its_window_and_fails_without(rig: Rig) -> None:
    late, passed = rig.station(alter=slow(2.5)), rig.station(alter=slow(1.2))
    assert stop(target(late), window_s=1)[0].state is SiteState.FAILED
    assert stop(target(passed), window_s=4)[0].state is SiteState.VERIFIED_ZERO


@pytest.mark.criterion("ES-3")
def test_a_fighting_master_is_seen_and_the_device_stopped(rig: Rig) -> None:
    port = rig.station()
    rig.fight(port)
    (result,) = stop(target(port))
    assert [entry["state"] for entry in result.history] == ["CONTENDED", "VERIFIED_ZERO"]
    assert (result.contended, result.changed) == (True, True)
    assert result.writes[-1]["point"] == "operating_command"
    assert mbpoll(port, 1) == 0


@pytest.mark.criterion("ES-3")
def test_a_fight_that_cannot_be_won_is_contended(rig: Rig) -> None:
    content = yaml.safe_load((DATA / "generic_battery.yaml").read_text())
    del content["recipes"]["stop"], content["recipes"]["release"]
    port = rig.station()
    rig.fight(port)
    (result,) = stop(target(port, parse_profile(content, "test")), window_s=1.5)
    assert (result.state, result.changed) == (SiteState.CONTENDED, True)


@pytest.mark.parametrize("fallback", ["hold_last", "autonomous"])
def test_a_fallback_that_is_not_zero_gets_the_stop_command_too(fallback: str, rig: Rig) -> None:
    port = rig.station()
    (result,) = stop(target(port, altered(watchdog__fallback=fallback)))
    assert [entry["recipe"] for entry in result.writes] == ["zero_power", "stop", "stop"]
    assert result.state is SiteState.VERIFIED_ZERO
    assert mbpoll(port, 1) == 0


def test_without_the_meter_that_was_named_it_is_only_read_back(rig: Rig) -> None:
    port = rig.station()
    (result,) = stop(target(port, meter_port=rig.black_hole()), window_s=1)
    assert result.state is SiteState.READBACK_ONLY
    assert "no answer from the meter" in result.message
    assert stop(target(port, meter=False))[0].state is SiteState.VERIFIED_ZERO


def test_a_meter_that_still_sees_power_is_believed(rig: Rig) -> None:
    (result,) = stop(target(rig.station(), meter_port=rig.station(power_kw=-30)), window_s=1)
    assert result.state is SiteState.FAILED
    assert "meter -30" in result.message or "meter -29" in result.message


def test_a_heartbeat_that_stands_still_proves_nothing(rig: Rig) -> None:
    def freeze(station: Station) -> None:
        read = station.devices[1].read

        def stale(table: Table, address: int, count: int) -> list[int]:
            words = read(table, address, count)
            return [0, 7, *words[2:]] if address == 0 and table is Table.INPUT else words

        station.devices[1].read = stale  # type: ignore[method-assign]  # a frozen heartbeat

    (result,) = stop(target(rig.station(alter=freeze)), window_s=1)
    assert result.state is SiteState.READBACK_ONLY
    assert "heartbeat stands still" in result.message


def test_silence_after_the_write_is_unknown_never_stopped(rig: Rig) -> None:
    (result,) = stop(target(rig.black_hole(), meter=False), window_s=1)
    assert result.state is SiteState.UNKNOWN
    assert "a zero write left and no answer came" in result.message
    assert {entry["outcome"] for entry in result.writes} == {"unknown"}
    assert result.changed


@pytest.mark.parametrize(
    ("fallback", "state", "words"),
    [
        ("zero", SiteState.UNREACHABLE_DEADMAN_PENDING, "goes to 0 kW by itself within 20 s"),
        ("autonomous", SiteState.UNKNOWN, "falls back to autonomous"),
    ],
)
def test_nobody_there(fallback: str, state: SiteState, words: str) -> None:
    (result,) = stop(target(1, altered(watchdog__fallback=fallback), meter=False), window_s=0.5)
    assert (result.state, result.changed, result.first_write_s) == (state, False, None)
    assert words in result.message


def test_a_gateway_without_its_device_is_unknown(rig: Rig) -> None:
    port = rig.station()
    absent = Target("wlce", "bess-9", Endpoint("127.0.0.1", port, 9, BATTERY))
    (result,) = stop(absent, window_s=0.5)
    assert result.state is SiteState.UNKNOWN
    assert "the unit is offline behind a live gateway" in result.message


def test_a_device_that_goes_away_on_the_way_is_unknown(rig: Rig) -> None:
    def die(station: Station) -> None:
        read, left = station.devices[1].read, [2]

        def sometimes(*arguments: Any) -> list[int]:
            left[0] -= 1
            if left[0] < 0:
                raise DeviceException(11)
            return read(*arguments)

        station.devices[1].read = sometimes  # type: ignore[method-assign]  # silent after two reads

    (result,) = stop(target(rig.station(alter=die)), window_s=1)
    assert result.state is SiteState.UNKNOWN
    assert "fell silent" in result.message


def test_a_profile_without_the_recipe_costs_the_others_nothing(rig: Rig) -> None:
    wrong = Target("hmce", "meter", Endpoint("127.0.0.1", rig.station(), 2, METER))
    results = stop([wrong, target(rig.station())])
    assert [result.state for result in results] == [SiteState.FAILED, SiteState.VERIFIED_ZERO]
    assert "no recipe 'zero_power'" in results[0].message
    assert results[0].writes == []


def test_a_fleet_with_dead_sites_is_stopped_as_one_without(rig: Rig) -> None:
    alive = [target(rig.station(power_kw=30)) for _ in range(36)]
    dead = [target(rig.black_hole(), meter=False) for _ in range(4)]
    # The window is wide because this machine may be busy.
    results = stop(alive + dead, window_s=8, interval_s=0.3)
    assert {result.state for result in results[:36]} == {SiteState.VERIFIED_ZERO}
    assert {result.state for result in results[36:]} == {SiteState.UNKNOWN}
    assert max(result.first_write_s or 0 for result in results[:36]) < 1


@pytest.mark.parametrize("name", ["sunspec_battery", "hold_last_inverter", "autonomous_inverter"])
def test_other_kinds_of_device_are_stopped_too(name: str, rig: Rig) -> None:
    profile = load_profile(name)
    port = rig.station(profile=name)
    (result,) = stop(target(port, profile, meter=False), window_s=10)
    assert result.state is SiteState.VERIFIED_ZERO, result
    assert "zero_power" in [entry["recipe"] for entry in result.writes]
    (planned,) = stop(target(port, profile, meter=False), dry_run=True)
    assert (planned.state, bool(planned.writes)) == (SiteState.PLANNED, True)


def test_a_device_of_another_kind_is_never_written_to(rig: Rig) -> None:
    (result,) = stop(target(rig.station(), load_profile("sunspec_battery"), meter=False), window_s=1)
    assert (result.state, result.writes) == (SiteState.FAILED, [])
    assert not [entry for entry in rig.served if entry["function"] in WRITES]


@pytest.mark.parametrize(
    ("limits", "connections", "raised_to"),
    [
        ((1024, 4096), 1000, 1512),
        ((1024, 1200), 1000, 1200),
        ((1024, 4096), 40, None),
        ((-1, -1), 9000, None),
    ],
)
def test_a_large_fleet_gets_the_open_files_that_it_needs(
    limits: tuple[int, int], connections: int, raised_to: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.getrlimit", lambda _: limits)
    monkeypatch.setattr("resource.setrlimit", lambda _, wanted: asked.append(wanted))
    allow_files(connections)
    assert asked == ([] if raised_to is None else [(raised_to, limits[1])])
