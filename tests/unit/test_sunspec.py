"""SunSpec devices: their models are found wherever they lie, and a wrong device is refused before a write."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from modbus_rig import Rig

from golden import GoldenClient, Vector, vectors
from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.errors import DeviceExceptionError, ModbusError, RequestError
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.profiles import (
    concrete,
    load_profile,
    parse_profile,
    plan_for_device,
    plan_recipe,
    read_factors,
    read_points,
    read_sample,
    run_recipe,
    write_point,
)
from stationkeeper.profiles.sunspec import BASES, Model, SunSpecError, find_models, read_nameplate, resolve

BATTERY = load_profile("sunspec_battery")
LEGACY = load_profile("sunspec_inverter_legacy")


def vector(profile: str = "sunspec_battery", number: int = 0) -> Vector:
    return vectors(profile)[number]


def device(words: dict[int, int]) -> Any:
    return GoldenClient(Vector("", "", {"holding": words}, {}, {}, []))


def chain(base: int, *models: tuple[int, int], end: bool = True) -> dict[int, int]:
    """Return the registers of a device with these (number, length)."""
    words = [0x5375, 0x6E53]
    for number, length in models:
        words += [number, length, *[0xFFFF] * length]
    return {base + place: word for place, word in enumerate([*words, 0xFFFF, 0] if end else words)}


@pytest.mark.parametrize("base", BASES)
def test_models_are_found_at_each_base(base: int) -> None:
    models = asyncio.run(find_models(device(chain(base, (1, 66), (704, 65), (64001, 7))), 1))
    assert models == (
        Model(1, base + 2, 66),
        Model(704, base + 70, 65),
        Model(64001, base + 137, 7),
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({40000: 1, 40001: 2}, "no SunSpec marker at 40000, 0, 50000"),
        ({**chain(0, (1, 66), end=False), 70: 0, 71: 0}, "no model at 70, where the chain leads"),
        (chain(0, *[(300, 1)] * 101), "more than 100 models"),
        (chain(40000, (1, 25532), end=False), "runs beyond register 65535"),
    ],
)
def test_a_chain_that_is_not_sound_is_refused(words: dict[int, int], message: str) -> None:
    with pytest.raises(SunSpecError, match=message) as caught:
        asyncio.run(find_models(device(words), 1))
    assert caught.value.outcome is Outcome.BLOCKED_BY_INTERLOCK


def test_only_nothing_there_leads_to_the_next_base() -> None:
    class Busy(GoldenClient):
        async def read(self, _unit: int, _table: Any, _address: int, _count: int) -> list[int]:
            raise DeviceExceptionError(6, "busy", writing=False)

    client: Any = Busy(vector())
    with pytest.raises(ModbusError, match="busy"):
        asyncio.run(find_models(client, 1))


def test_the_nameplate_is_read() -> None:
    async def read() -> Any:
        client: Any = GoldenClient(vector())
        return await read_nameplate(client, 1, await find_models(client, 1))

    plate = asyncio.run(read())
    assert (plate.manufacturer, plate.model) == ("Example Power", "DER-100")
    assert (plate.options, plate.version, plate.serial_number) == ("x", "1.2", "SN0001")
    with pytest.raises(SunSpecError, match="no model 1"):
        asyncio.run(read_nameplate(device({}), 1, [Model(704, 2, 65)]))


def test_a_missing_or_short_model_is_refused_before_any_write() -> None:
    client = device(chain(40000, (1, 66), (701, 153), (713, 7), (715, 7), (802, 62)))
    with pytest.raises(SunSpecError, match=r"needs SunSpec model 704; this device has 1, 701, 713, 715, 802"):
        asyncio.run(run_recipe(client, 1, BATTERY, "zero_power"))
    assert client.writes == []
    with pytest.raises(SunSpecError, match=r"model 704 .* has 30 registers, so no reversion_time_s"):
        resolve(BATTERY, [Model(number, 2, 153) for number in (701, 713, 715, 802)] + [Model(704, 2, 30)])


def test_the_first_of_several_models_counts_and_a_shorter_block_is_read_shorter() -> None:
    models = [Model(101, 10, 50), Model(122, 100, 44), Model(123, 200, 24), Model(124, 300, 24)]
    found = resolve(LEGACY, [*models, Model(103, 400, 50), Model(103, 500, 50)])
    assert found.points["power_kw"].address == 414
    assert not found.addresses_models
    assert found.telemetry.count == 52
    short = resolve(LEGACY, [Model(103, 400, 40), *models[1:]])
    assert (short.telemetry.address, short.telemetry.count) == (400, 42)
    # A resolved profile is an ordinary one: it can be kept, as in a stop bundle, and read again.
    assert parse_profile(found.model_dump(mode="json"), "kept") == found


def test_a_resolved_point_keeps_the_value_for_not_implemented() -> None:
    found = resolve(
        BATTERY, [Model(number, 200 * place, 153) for place, number in enumerate((701, 704, 713, 715, 802))]
    )
    sentinels = {name: found.points[name].encoding.not_implemented for name in ("power_kw", "soe_percent")}
    assert sentinels == {"power_kw": 0x8000, "soe_percent": 0xFFFF}
    assert found.points["setpoint_kw"].encoding.not_implemented == 0x80000000


def test_models_are_searched_once_per_connection() -> None:
    async def run() -> None:
        client: Any = GoldenClient(vector())
        first = await concrete(client, 1, BATTERY)
        searched = len(client.reads)
        assert await concrete(client, 1, BATTERY) is first
        assert len(client.reads) == searched
        # Another unit of a gateway is another device.
        assert await concrete(client, 2, BATTERY) is not first
        assert len(client.reads) == 2 * searched
        client.connected = False
        await concrete(client, 1, BATTERY)
        assert len(client.reads) == 3 * searched

    asyncio.run(run())


def test_factors_come_in_the_same_request_as_their_value() -> None:
    async def run() -> None:
        client: Any = GoldenClient(vector())
        profile = await concrete(client, 1, BATTERY)
        client.reads.clear()
        await read_points(client, 1, profile, ["power_kw"])
        assert client.reads == [("holding", 40080, 107)]
        client.reads.clear()
        await read_sample(client, 1, profile)
        assert [address for _, address, _ in client.reads] == [40070, 40247, 40294, 40303]

    asyncio.run(run())


def test_a_write_is_encoded_with_the_factor_just_read() -> None:
    async def run() -> None:
        client: Any = GoldenClient(vector())
        profile = await concrete(client, 1, BATTERY)
        factor = profile.points["setpoint_sf"].address
        for exponent, raw in ((1, 1000), (0, 10000), (3, 10), (0xFFFE, 1000000)):
            client.registers["holding"][factor] = exponent
            written = await write_point(client, 1, profile, "setpoint_kw", 10)
            assert written.words == [raw >> 16, raw & 0xFFFF]
            assert client.reads[-1][1] == factor

    asyncio.run(run())


@pytest.mark.parametrize("exponent", [0x8000, 11, 0xFFF5])
def test_without_a_factor_nothing_is_written_but_a_zero(exponent: int) -> None:
    async def run() -> None:
        client: Any = GoldenClient(vector())
        profile = await concrete(client, 1, BATTERY)
        client.registers["holding"][profile.points["setpoint_sf"].address] = exponent
        assert (await read_points(client, 1, profile, ["setpoint_kw"]))["setpoint_kw"] is None
        with pytest.raises(RequestError, match="does not say its scale factor"):
            await run_recipe(client, 1, profile, "set_power", power_kw=10)
        assert client.writes == []
        client.reads.clear()
        await run_recipe(client, 1, profile, "stop")
        assert client.reads == []
        assert client.writes[-1][1] == [0]

    asyncio.run(run())


def test_a_percentage_of_nothing_is_missing() -> None:
    async def run() -> None:
        client: Any = GoldenClient(vector("sunspec_inverter_legacy"))
        profile = await concrete(client, 1, LEGACY)
        client.registers["holding"][profile.points["max_charge_kw"].address] = 0
        assert (await read_points(client, 1, profile, ["setpoint_kw"]))["setpoint_kw"] is None
        with pytest.raises(RequestError, match="does not say its scale factor"):
            await write_point(client, 1, profile, "setpoint_kw", 1)

    asyncio.run(run())


def test_planning_without_a_device_says_what_is_missing() -> None:
    with pytest.raises(RequestError, match="lies in a SunSpec model"):
        plan_recipe(BATTERY, "zero_power")

    async def run() -> None:
        client: Any = GoldenClient(vector())
        profile = await concrete(client, 1, BATTERY)
        assert plan_recipe(profile, "stop")[-1].words == [0]
        with pytest.raises(RequestError, match="has a scale factor: read it"):
            plan_recipe(profile, "set_power", power_kw=10)
        factors = await read_factors(client, 1, profile, ["setpoint_kw"])
        planned = plan_recipe(profile, "set_power", power_kw=10, factors=factors)
        assert planned == await plan_for_device(client, 1, BATTERY, "set_power", power_kw=10)
        assert client.writes == []

    asyncio.run(run())


@pytest.mark.parametrize("profile", [BATTERY, LEGACY], ids=lambda profile: profile.name)
def test_what_makes_a_value_act_is_written_after_it(profile: Any) -> None:
    acting = {"sunspec_battery": "setpoint_enable", "sunspec_inverter_legacy": "storage_mode"}[profile.name]
    for recipe, steps in profile.recipes.items():
        order = [step.point for step in steps]
        assert "setpoint_kw" in order[: order.index(acting)], recipe
        assert not [
            name for name in order[order.index(acting) :] if name.endswith(("_kw", "reversion_time_s"))
        ]


def test_on_a_real_connection_an_independent_client_reads_what_was_written(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "served.jsonl")

    async def drive(port: int) -> list[tuple[int, list[int]]]:
        client = StrictClient("127.0.0.1", port)
        try:
            await run_recipe(client, 1, BATTERY, "set_power", power_kw=12.5)
            # The factor is the device's: engineering value and words must agree through it.
            assert (await read_points(client, 1, BATTERY, ["setpoint_kw"]))["setpoint_kw"] == 12.5
            profile = await concrete(client, 1, BATTERY)
            factors = await read_factors(client, 1, profile, ["setpoint_kw"])
            planned = plan_recipe(profile, "set_power", power_kw=12.5, factors=factors)
            return [(step.address, step.words) for step in planned]
        finally:
            await client.close()

    try:
        port = rig.station(0, profile="sunspec_battery")
        for address, words in asyncio.run(drive(port)):
            command = ["mbpoll", "-m", "tcp", "-p", str(port), "-a", "1", "-0", "-1", "-q", "-t", "4:hex"]
            command += ["-r", str(address), "-c", str(len(words)), "127.0.0.1"]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
            found = [int(text, 16) for text in re.findall(r"0x([0-9A-F]{4})", done.stdout)]
            assert found == words, address
    finally:
        rig.close()
