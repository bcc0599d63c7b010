"""What forbids the release of an emergency stop, against simulated devices over real Modbus TCP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from stationkeeper.modbus.client import StrictClient
from stationkeeper.profiles import run_recipe
from stationkeeper.simulator.config import SimulatorConfig, Station
from stationkeeper.simulator.server import SimulatorServer
from stationkeeper.station.devices import Pace, Seen, Target, excesses, look_at_all, refusals, run_release

PACE = Pace(samples=2, interval_s=0, timeout_s=1)
Body = Callable[[Station, Target, Target], Awaitable[Any]]


def with_station(body: Body, **battery: Any) -> Any:
    """Run ``body`` against a simulated battery and its meter."""

    async def run() -> Any:
        config = SimulatorConfig.model_validate(
            {
                "listen": {"host": "127.0.0.1", "port": 0},
                "log": "/dev/null",
                "devices": [
                    {"unit": 1, "name": "B", "profile": "generic_battery", "ramp_kw_per_s": 1000, **battery},
                    {"unit": 2, "name": "M", "profile": "generic_meter", "meter_of": "B"},
                ],
            }
        )
        station = Station(config)
        server = SimulatorServer(station.devices)
        port = await server.start("127.0.0.1", 0)
        targets = [
            Target.of(
                {
                    "name": name,
                    "profile": profile,
                    "modbus": {"host": "127.0.0.1", "port": port, "unit": unit},
                }
            )
            for name, profile, unit in (("B", "generic_battery", 1), ("M", "generic_meter", 2))
        ]
        try:
            return await body(station, *targets)
        finally:
            await server.close()

    return asyncio.run(run())


async def command(target: Target, recipe: Any, power_kw: float | None = None) -> None:
    client = StrictClient(target.host, target.port, 1, 1)
    await run_recipe(client, target.unit, target.profile, recipe, power_kw=power_kw)
    await client.close()


async def problems(battery: Target, meter: Target) -> list[str]:
    seen = await look_at_all([battery, meter], PACE)
    return refusals(battery, seen["B"]) + refusals(meter, seen["M"])


def test_battery_at_zero_may_be_released() -> None:
    async def body(station: Station, battery: Target, meter: Target) -> list[str]:
        station.step(1)
        return await problems(battery, meter)

    assert with_station(body) == []


def test_power_that_flows_forbids_it_on_both_instruments() -> None:
    async def body(station: Station, battery: Target, meter: Target) -> list[str]:
        await command(battery, "set_power", 40)
        station.step(1)
        return await problems(battery, meter)

    found = with_station(body)
    assert len(found) == 2
    assert all("does not stand at zero" in problem for problem in found)


@pytest.mark.parametrize(("soe", "word"), [(2, "holds 2 %"), (99, "holds 99 %")])
def test_state_of_energy_outside_of_its_window_forbids_it(soe: float, word: str) -> None:
    async def body(station: Station, battery: Target, meter: Target) -> list[str]:
        station.step(1)
        return await problems(battery, meter)

    assert word in " ".join(with_station(body, initial_soe_percent=soe))


def test_alarm_forbids_it_by_its_name() -> None:
    async def body(station: Station, battery: Target, meter: Target) -> list[str]:
        station.step(60)
        return await problems(battery, meter)

    assert "active alarms: watchdog_expired" in " ".join(with_station(body))


def test_silence_forbids_it() -> None:
    async def body(station: Station, battery: Target, meter: Target) -> list[str]:
        gone = Target(battery.name, battery.profile, "127.0.0.1", 1, 1, 100)
        seen = await look_at_all([gone, meter], PACE)
        return refusals(gone, seen["B"])

    assert "B does not answer" in with_station(body)[0]


def test_repeated_answers_are_stale() -> None:
    async def body(station: Station, battery: Target, meter: Target) -> list[str]:
        seen = (await look_at_all([battery], PACE))["B"]
        return refusals(battery, Seen((seen.samples[0], seen.samples[0]), seen.identity))

    assert "stale" in " ".join(with_station(body))


def test_missing_values_forbid_it() -> None:
    async def body(station: Station, battery: Target, meter: Target) -> list[str]:
        seen = (await look_at_all([battery], PACE))["B"]
        samples = tuple(
            {**sample, "power_kw": None, "soe_percent": None, "alarms": None} for sample in seen.samples
        )
        return refusals(battery, Seen(samples, seen.identity))

    assert len(with_station(body)) == 3


def test_another_device_at_the_address_forbids_it() -> None:
    async def body(station: Station, battery: Target, meter: Target) -> list[str]:
        wrong = Target("M", meter.profile, battery.host, battery.port, 1, 100)
        return refusals(wrong, (await look_at_all([wrong], PACE))["M"])

    assert "is not what its profile generic_meter says" in " ".join(with_station(body))


def test_release_recipe_starts_a_stopped_battery_once() -> None:
    async def body(station: Station, battery: Target, meter: Target) -> None:
        await command(battery, "stop")
        station.step(1)
        dry = await run_release(battery, PACE, dry_run=True, window_s=0)
        assert (dry.changed, dry.ok) == (True, True)
        assert "operating_command 0 -> 1" in dry.message

        async def pass_time() -> None:
            while True:
                station.step(0.25)
                await asyncio.sleep(0.01)

        ticking = asyncio.create_task(pass_time())
        done = await run_release(battery, PACE, dry_run=False)
        assert (done.changed, done.ok) == (True, True), done.message
        again = await run_release(battery, PACE, dry_run=False)
        assert (again.changed, again.ok) == (False, True)
        ticking.cancel()
        assert await problems(battery, meter) == []

    with_station(body)


def test_release_that_does_not_reach_standby_is_a_failure() -> None:
    async def body(station: Station, battery: Target, meter: Target) -> None:
        await command(battery, "set_power", 40)
        station.step(1)
        await command(battery, "stop")
        done = await run_release(battery, PACE, dry_run=False, window_s=0)
        assert (done.changed, done.ok) == (True, False)
        assert "not in standby" in done.message

    with_station(body)


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    async def body(station: Station, battery: Target, meter: Target) -> None:
        await command(battery, "stop")
        station.step(1)
        before = await look_at_all([battery], PACE)
        await run_release(battery, PACE, dry_run=True)
        station.step(1)
        after = await look_at_all([battery], PACE)
        assert [sample["status"] for sample in before["B"].samples] == [
            sample["status"] for sample in after["B"].samples
        ]

    with_station(body)


def test_power_beyond_the_rating_is_an_excess() -> None:
    async def body(station: Station, battery: Target, meter: Target) -> tuple[list[str], list[str]]:
        await command(battery, "set_power", 90)
        station.step(1)
        seen = (await look_at_all([battery], PACE))["B"]
        small = Target(battery.name, battery.profile, battery.host, battery.port, 1, 50)
        return excesses(battery, seen), excesses(small, seen)

    within, beyond = with_station(body)
    assert within == []
    assert any("setpoint_kw is 90" in problem for problem in beyond)
