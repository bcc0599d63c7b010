"""A simulated device behind each profile, through the profile's own recipes and reads."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stationkeeper.modbus.client import StrictClient, Table
from stationkeeper.modbus.errors import DeviceExceptionError
from stationkeeper.profiles import Profile, load_profile, read_points, read_sample, run_recipe, write_point
from stationkeeper.profiles.sunspec import find_models, read_nameplate
from stationkeeper.simulator.config import SimulatorConfig, Station
from stationkeeper.simulator.faults import Fault
from stationkeeper.simulator.server import SimulatorServer

BATTERIES = [
    "generic_battery",
    "autonomous_inverter",
    "hold_last_inverter",
    "sunspec_battery",
    "sunspec_inverter_legacy",
]

Scenario = Callable[[StrictClient, Station, SimulatorServer], Awaitable[None]]


def run(profile: str, scenario: Scenario, **settings: Any) -> None:
    device = {"unit": 1, "name": "b", "profile": profile, "watchdog": {"timeout_s": 0}} | settings
    listen = {"host": "127.0.0.1", "port": 0}
    config = SimulatorConfig.model_validate({"listen": listen, "log": "log", "devices": [device]})
    station = Station(config)

    async def main() -> None:
        server = SimulatorServer(station.devices)
        client = StrictClient("127.0.0.1", await server.start("127.0.0.1", 0), timeout_s=20)
        try:
            await scenario(client, station, server)
        finally:
            await client.close()
            await server.close()

    asyncio.run(main())


def advance(station: Station, seconds: float) -> None:
    for _ in range(round(seconds / 0.25)):
        station.step(0.25)


def status(profile: Profile, sample: dict[str, Any]) -> str:
    return profile.status[int(sample["status"])]


@pytest.mark.parametrize("name", BATTERIES)
def test_recipes_act_and_samples_tell(name: str) -> None:
    profile = load_profile(name)
    power_kw = profile.rating_kw / 2

    async def scenario(client: StrictClient, station: Station, _server: SimulatorServer) -> None:
        for entry in profile.identity:
            assert (await read_points(client, 1, profile, [entry.point]))[entry.point] == entry.equals
        await run_recipe(client, 1, profile, "set_power", power_kw=-power_kw)
        advance(station, 10)
        sample = await read_sample(client, 1, profile)
        assert sample["power_kw"] == pytest.approx(-power_kw, abs=profile.noise_floor_kw)
        assert profile.verify is not None
        verify = profile.verify
        assert sample[verify.point] == pytest.approx(-power_kw, abs=float(verify.tolerance))
        assert all(value is not None for value in sample.values())
        assert status(profile, sample) in ("charging", "running")
        assert sample["alarms"] == 0
        assert 50 < float(sample["soe_percent"] or 0) < 51
        await run_recipe(client, 1, profile, "zero_power")
        advance(station, 10)
        sample = await read_sample(client, 1, profile)
        assert sample["power_kw"] == pytest.approx(0, abs=profile.noise_floor_kw)
        await run_recipe(client, 1, profile, "set_power", power_kw=power_kw)
        await run_recipe(client, 1, profile, "stop")
        advance(station, 0.25)
        sample = await read_sample(client, 1, profile)
        assert (sample["power_kw"], status(profile, sample) in ("stopped", "off")) == (0, True)
        await run_recipe(client, 1, profile, "release")
        await run_recipe(client, 1, profile, "set_power", power_kw=power_kw)
        advance(station, 10)
        heartbeat = sample["heartbeat"]
        sample = await read_sample(client, 1, profile)
        assert sample["power_kw"] == pytest.approx(power_kw, abs=profile.noise_floor_kw)
        assert sample["heartbeat"] == int(heartbeat or 0) + 1

    run(name, scenario)


@pytest.mark.parametrize("name", ["hold_last_inverter", "sunspec_battery"])
def test_measured_points_in_holding_registers_refuse_writes(name: str) -> None:
    profile = load_profile(name)

    async def scenario(client: StrictClient, _station: Station, server: SimulatorServer) -> None:
        for point in ("soe_percent", "heartbeat", profile.identity[0].point):
            with pytest.raises(DeviceExceptionError) as caught:
                await write_point(client, 1, profile, point, 1, rounding="nearest")
            assert caught.value.code == 3
        assert server.writes(1) == 3

    run(name, scenario)


def test_a_sunspec_device_has_a_nameplate_and_a_chain_of_models() -> None:
    async def scenario(client: StrictClient, _station: Station, _server: SimulatorServer) -> None:
        models = await find_models(client, 1)
        assert [model.number for model in models] == [1, 701, 704, 713, 715, 802]
        assert (await read_nameplate(client, 1, models)).model == "sunspec_battery"
        words = ["mbpoll", "-m", "tcp", "-p", str(client.port), "-0", "-1", "-q", "-a", "1", "-t", "4:hex"]
        process = await asyncio.create_subprocess_exec(
            *words, "-r", "40000", "-c", "4", "127.0.0.1", stdout=subprocess.PIPE
        )
        output = (await process.communicate())[0].decode().split()
        assert [word for word in output if word.startswith("0x")] == ["0x5375", "0x6E53", "0x0001", "0x0042"]

    run("sunspec_battery", scenario)


def test_a_scale_factor_is_honoured_and_may_change() -> None:
    profile = load_profile("sunspec_battery")

    async def scenario(client: StrictClient, station: Station, server: SimulatorServer) -> None:
        await run_recipe(client, 1, profile, "set_power", power_kw=50)
        advance(station, 10)
        address = station.devices[1].profile.points["setpoint_kw"].address
        assert await client.read(1, Table.HOLDING, address, 2) == [0, 5000]
        server.faults.set(Fault(kind="scale_factor_change", unit=1, point="setpoint_sf", value=2))
        assert await client.read(1, Table.HOLDING, address, 2) == [0, 500]
        assert (await read_points(client, 1, profile, ["setpoint_kw"]))["setpoint_kw"] == 50
        # A master that still uses the old factor gets ten times as much, and is refused beyond the rating.
        await client.write(1, address, [0, 800])
        assert (await read_points(client, 1, profile, ["setpoint_kw"]))["setpoint_kw"] == 80
        with pytest.raises(DeviceExceptionError):
            await client.write(1, address, [0, 5000])
        server.faults.set(Fault(kind="sentinel", unit=1, point="power_sf"))
        assert (await read_sample(client, 1, profile))["power_kw"] is None

    run("sunspec_battery", scenario, values={"setpoint_sf": 1})


def test_a_set_point_without_its_enable_does_nothing() -> None:
    profile = load_profile("sunspec_battery")

    async def scenario(client: StrictClient, station: Station, _server: SimulatorServer) -> None:
        await write_point(client, 1, profile, "setpoint_kw", 50)
        advance(station, 5)
        assert (await read_sample(client, 1, profile))["power_kw"] == pytest.approx(0, abs=0.5)
        await write_point(client, 1, profile, "setpoint_enable", 1)
        advance(station, 5)
        assert (await read_sample(client, 1, profile))["power_kw"] == pytest.approx(50, abs=0.5)

    run("sunspec_battery", scenario)


def test_a_reversion_timer_counts_down_and_ends_the_power() -> None:
    profile = load_profile("sunspec_battery")

    async def scenario(client: StrictClient, station: Station, _server: SimulatorServer) -> None:
        async def remaining() -> Any:
            return (await read_points(client, 1, profile, ["reversion_remaining_s"]))["reversion_remaining_s"]

        await run_recipe(client, 1, profile, "set_power", power_kw=50)
        assert await remaining() == 10
        advance(station, 4)
        assert await remaining() == 6
        advance(station, 8)
        assert await remaining() == 0
        advance(station, 5)
        assert (await read_sample(client, 1, profile))["power_kw"] == pytest.approx(0, abs=0.5)

    run("sunspec_battery", scenario, watchdog={})
