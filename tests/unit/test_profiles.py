"""Profiles: the built-in ones hold together, and a wrong one is refused with file, place and fix."""

from __future__ import annotations

import asyncio
import copy
import functools
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import yaml

from stationkeeper.modbus.errors import ModbusError, NoAnswerError, RequestError
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.profiles import (
    ProfileError,
    RecipeError,
    load_profile,
    parse_profile,
    plan_recipe,
    power_words,
    read_points,
    read_sample,
    run_recipe,
    write_point,
)
from stationkeeper.profiles.load import DATA

BATTERY = yaml.safe_load((DATA / "generic_battery.yaml").read_text())
COLUMNS = {
    "generic_battery": (
        "heartbeat power_kw setpoint_kw soe_percent voltage_v frequency_hz temperature_c status alarms"
    ),
    "generic_meter": "heartbeat power_kw voltage_v frequency_hz energy_import_kwh energy_export_kwh",
}


def synchronous(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


class FakeClient:
    """Holds registers; fails the write with number `fail_at`."""

    def __init__(self, registers: dict[int, int] | None = None, fail_at: int | None = None) -> None:
        self.registers = registers or {}
        self.reads: list[tuple[int, str, int, int]] = []
        self.writes: list[tuple[int, list[int]]] = []
        self.fail_at = fail_at

    async def read(self, unit: int, table: str, address: int, count: int) -> list[int]:
        self.reads.append((unit, str(table), address, count))
        return [self.registers.get(address + i, 0) for i in range(count)]

    async def write(self, unit: int, address: int, words: list[int]) -> None:
        if len(self.writes) == self.fail_at:
            raise NoAnswerError("silence", writing=True)
        self.writes.append((address, words))


@pytest.mark.parametrize("name", COLUMNS)
def test_built_in_profiles_sample_the_table_columns(name: str) -> None:
    assert load_profile(name).telemetry.points == COLUMNS[name].split()


def altered(path: str, value: Any) -> dict[str, Any]:
    content: dict[str, Any] = copy.deepcopy(BATTERY)
    *parents, last = path.split(".")
    place = content
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("points.power_kw.type", "int24", r"f.yaml: points.power_kw.type: .*'int16'.*not 'int24'"),
        ("points.power_kw.adress", 3, r"f.yaml: points.power_kw.adress: Extra inputs"),
        ("points.power_kw.address", 1, "points heartbeat and power_kw overlap at input 1"),
        ("points.power_kw.scale", 0, "scale must be a finite number other than 0"),
        ("points.power_kw.scale", float("nan"), "scale: .*finite"),
        ("points.power_kw.table", "coil", "table coil holds bits, so the type is bit"),
        ("points.alarms.address", 200, "alarms .* lies outside the block input 0 to 12"),
        ("recipes.zero_power", None, "a bess profile needs a `zero_power` recipe"),
        ("recipes.zero_power", [], "recipes.zero_power: at least one step"),
        (
            "recipes.stop",
            [{"point": "power", "value": 0}],
            r"recipes.stop\[0\]: no point is called 'power'; points",
        ),
        ("recipes.stop", [{"point": "power_kw", "value": 0}], "not a whole holding register"),
        ("recipes.stop", [{"point": "operating_command", "value": 0.5}], "not a multiple"),
        ("recipes.stop", [{"point": "operating_command", "value": "$power_kw"}], "unknown; set_power has"),
        ("recipes.halt", [{"point": "operating_command", "value": 0}], "recipes.halt.*not 'halt'"),
        ("verify", None, "needs `verify`"),
        ("verify.point", "nothing", "verify.point: no point is called 'nothing'"),
        ("heartbeat", "vendor_id", "heartbeat: vendor_id must be one of telemetry.points"),
        ("telemetry.count", 126, "telemetry.count: .*125"),
        ("watchdog.fallback", "explode", "watchdog.fallback: .*not 'explode'"),
        ("watchdog.point", None, "fed_by register_write needs `point`"),
        ("watchdog.remaining_point", "nothing", "watchdog.remaining_point: no point is called 'nothing'"),
        ("watchdog.measured_fallback_s", 9.5, "measured_fallback_s and measured_on go together"),
        ("alarm_point", "nothing", "alarm_point: no point is called 'nothing'"),
        ("local_mode", {"point": "nothing", "equals": 1}, "local_mode.point: no point is called 'nothing'"),
        ("write_only", ["nothing"], r"write_only\[0\]: no point is called 'nothing'"),
        ("write_only", ["setpoint_kw"], "verify.point: setpoint_kw is in write_only"),
        ("on_partial", "set_power", "on_partial: set_power is not a recipe here that needs no argument"),
        ("points.power_command_kw.storage", "rom", "storage: .*not 'rom'"),
        (
            "points.power_command_kw.storage",
            "flash",
            r"set_power: .* flash .* so min_write_interval_s is needed",
        ),
        ("min_write_interval_s", float("inf"), "min_write_interval_s: .*finite"),
        ("atomic", False, r"without `atomic`, power_command_kw takes several registers"),
        ("points.power_kw.scale_factor", "nothing", "power_kw.scale_factor: no point is called 'nothing'"),
        ("points.power_kw.scale_factor", "vendor_id", "vendor_id must be a plain int16, the power of ten"),
        ("points.power_kw.base", "rated_power_kw", "rated_power_kw .* lies outside the block"),
        ("points.running.base", "rated_power_kw", "a bit has neither scale_factor nor base"),
        ("points.power_kw.model", 0, "points.power_kw.model.0: .*greater than or equal to 1"),
        ("points.power_kw.model", 701, "power_kw .* lies outside the block"),
        ("device_type", "inverter", "device_type: .*not 'inverter'"),
    ],
)
def test_a_wrong_profile_names_file_place_and_fix(path: str, value: Any, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        parse_profile(altered(path, value), "f.yaml")


def test_a_fallback_that_is_not_safe_demands_a_stop_recipe() -> None:
    content = altered("recipes.stop", None)
    content["watchdog"]["fallback"] = "autonomous"
    with pytest.raises(ProfileError, match="makes a `stop` recipe mandatory"):
        parse_profile(content, "f.yaml")


def test_a_device_that_may_take_half_a_value_is_disabled_while_it_is_written() -> None:
    content = altered("atomic", False)
    for recipe in content["recipes"].values():
        for step in [step for step in recipe if step["point"] == "power_command_kw"]:
            place = recipe.index(step)
            recipe[place:place] = [{"point": "operating_command", "value": 0}]
            recipe.append({"point": "operating_command", "value": 1})
    assert not parse_profile(content, "f.yaml").atomic


def test_a_base_has_none_itself_and_scaled_points_may_share_one() -> None:
    content = altered("points.rated_power_kw.base", "capacity_kwh")
    assert parse_profile(content, "f.yaml").companions("rated_power_kw") == ["capacity_kwh"]
    content["points"]["capacity_kwh"]["base"] = "rated_power_kw"
    with pytest.raises(ProfileError, match="has a base itself"):
        parse_profile(content, "f.yaml")


def test_what_was_measured_is_part_of_the_contract() -> None:
    content = altered("watchdog.measured_fallback_s", 10.7)
    content["watchdog"]["measured_on"] = "2026-11-21"
    watchdog = parse_profile(content, "f.yaml").watchdog
    assert watchdog is not None
    assert (watchdog.measured_fallback_s, str(watchdog.measured_on)) == (10.7, "2026-11-21")


def test_fields_of_one_word_may_share_it() -> None:
    content = altered("points.low", {"table": "input", "address": 50, "type": "uint16", "mask": 0x00FF})
    content["points"]["high"] = {"table": "input", "address": 50, "type": "bit", "bit": 8}
    assert parse_profile(content, "f.yaml").points["high"].count == 1
    content["points"]["high"]["bit"] = 7
    with pytest.raises(ProfileError, match="low and high overlap"):
        parse_profile(content, "f.yaml")


def test_profiles_are_found_in_the_search_path_first(tmp_path: Path) -> None:
    (tmp_path / "generic_battery.yaml").write_text(yaml.safe_dump(altered("rating_kw", 250)))
    assert load_profile("generic_battery", [tmp_path]).rating_kw == 250
    assert load_profile("generic_battery", [tmp_path / "none"]).rating_kw == 100


def test_missing_broken_and_misnamed_files(tmp_path: Path) -> None:
    with pytest.raises(
        ProfileError, match=r"no profile 'other'.*known profiles: autonomous_inverter, generic_b"
    ):
        load_profile("other", [tmp_path])
    with pytest.raises(ProfileError, match="is a path"):
        load_profile("../generic_battery")
    (tmp_path / "broken.yaml").write_text("name: [")
    with pytest.raises(ProfileError, match=r"broken.yaml: cannot be read as YAML"):
        load_profile("broken", [tmp_path])
    (tmp_path / "list.yaml").write_text("[]")
    with pytest.raises(ProfileError, match="a profile is a mapping, not list"):
        load_profile("list", [tmp_path])
    (tmp_path / "alias.yaml").write_text(yaml.safe_dump(BATTERY))
    with pytest.raises(ProfileError, match="must equal the file's name"):
        load_profile("alias", [tmp_path])


@synchronous
async def test_sample_is_one_request_and_missing_stays_missing() -> None:
    profile = load_profile("generic_battery")
    client: Any = FakeClient({0: 1, 1: 2, 2: 0xFFFF, 3: 0xFF9C, 6: 5000, 9: 0x8000, 10: 2})
    sample = await read_sample(client, 3, profile)
    assert client.reads == [(3, "input", 0, 13)]
    assert sample["heartbeat"] == 65538
    assert sample["power_kw"] == -0.1
    assert sample["soe_percent"] == 50.0
    assert sample["temperature_c"] is None
    assert isinstance(sample["status"], int)


@synchronous
async def test_points_are_read_one_by_one() -> None:
    client: Any = FakeClient({103: 1, 104: 34464, 100: 0x534B})
    sample = await read_points(client, 1, load_profile("generic_battery"), ["vendor_id", "rated_power_kw"])
    assert sample == {"vendor_id": 0x534B, "rated_power_kw": 100.0}
    with pytest.raises(RequestError, match="no point 'nothing'"):
        await read_points(client, 1, load_profile("generic_battery"), ["nothing"])


@synchronous
async def test_recipes_write_in_order_and_round_a_set_point() -> None:
    profile = load_profile("generic_battery")
    client: Any = FakeClient()
    await run_recipe(client, 1, profile, "stop")
    written = await run_recipe(client, 1, profile, "set_power", power_kw=-12.34567)
    assert client.writes[:2] == [(0, [0, 0]), (2, [0])]
    assert client.writes[2] == (0, power_words(profile, -12.346))
    assert (written[0].point, written[0].address) == ("power_command_kw", 0)


@synchronous
async def test_a_recipe_that_stops_half_way_says_what_is_written() -> None:
    client: Any = FakeClient(fail_at=1)
    with pytest.raises(
        RecipeError, match=r"failed at operating_command \(power_command_kw written\)"
    ) as caught:
        await run_recipe(client, 1, load_profile("generic_battery"), "stop")
    assert caught.value.outcome is Outcome.UNKNOWN
    assert [entry.point for entry in caught.value.written] == ["power_command_kw"]


@pytest.mark.parametrize(
    ("recipe", "power_kw"),
    [("set_power", None), ("set_power", 1000.5), ("set_power", float("nan")), ("stop", 0.0), ("trip", None)],
)
def test_a_recipe_is_refused_before_anything_leaves(recipe: Any, power_kw: float | None) -> None:
    with pytest.raises(RequestError):
        plan_recipe(load_profile("generic_battery"), recipe, power_kw=power_kw)


@synchronous
async def test_only_holding_registers_can_be_written() -> None:
    client: Any = FakeClient()
    profile = load_profile("generic_battery")
    for name, value in (("power_kw", 0), ("nothing", 0), ("operating_command", -1)):
        with pytest.raises(ModbusError):
            await write_point(client, 1, profile, name, value)
    assert client.writes == []
    await write_point(client, 1, profile, "controller_heartbeat", 7.4, rounding="nearest")
    assert client.writes == [(3, [7])]
