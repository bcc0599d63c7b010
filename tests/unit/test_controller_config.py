"""Configuration of the controller: schema, merge, messages, last good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stationkeeper.controller.config import (
    Files,
    keep_as_last_good,
    load,
    load_database,
    load_or_last_good,
)
from stationkeeper.controller.merge import ConfigError, merge

CONFIG = """
site: WLCE
controller:
  poll_interval: 30s
  components:
    - {type: limits, min_soe_percent: 10, max_soe_percent: 90}
    - {type: to_soe, target_soe_percent: 60}
data_platform:
  upload: {batch_size: 200, interval: 5s}
devices:
  bess:
    - id: ab79127d-a435-5f3c-87bf-8943623e4134
      name: WLCE-BESS-01
      profile: generic_battery
      modbus: {host: 10.0.0.1, port: 502, unit: 1}
      rating_kw: 100
      capacity_kwh: 200
  meter:
    - id: ab79127d-a435-5f3c-87bf-8943623e4135
      name: WLCE-METER-01
      profile: generic_meter
      modbus: {host: 10.0.0.1, unit: 2}
      measures: WLCE-BESS-01
"""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files.at(tmp_path / "etc", tmp_path / "var")
    for path in (files.profiles, files.last_good.parent):
        path.mkdir(parents=True)
    files.config.write_text(CONFIG)
    return files


def test_the_guides_form_loads(files: Files) -> None:
    config = load(files.config).config
    assert config.controller.poll_interval_s == 30
    assert config.data_platform.upload.batch_size == 200
    assert config.devices.bess[0].modbus.unit == 1
    assert config.controller.to_soe is not None


def test_maps_merge_items_merge_by_identity_and_null_deletes(files: Files) -> None:
    files.override.write_text(
        """
controller:
  poll_interval: null
  components:
    - {type: maintenance_mode, enabled: true}
    - {type: to_soe, target_soe_percent: 20}
devices:
  bess:
    - {id: ab79127d-a435-5f3c-87bf-8943623e4134, rating_kw: 50, modbus: {port: 1502}}
"""
    )
    loaded = load(files.config, files.override)
    config = loaded.config
    assert config.controller.poll_interval_s == 60
    assert config.controller.rules.maintenance
    assert config.controller.limits is not None
    assert config.controller.to_soe is not None
    assert config.controller.to_soe.target_soe_percent == 20
    assert config.devices.bess[0].rating_kw == 50
    assert config.devices.bess[0].modbus.port == 1502
    assert config.devices.bess[0].modbus.host == "10.0.0.1"
    assert loaded.hash != load(files.config).hash


BESS = "devices: {bess: [{id: ab79127d-a435-5f3c-87bf-8943623e4134, %s}]}"
METER = "devices: {meter: [{id: ab79127d-a435-5f3c-87bf-8943623e4135, %s}]}"
SECTION = "controller: {%s}"
PARTS = "controller: {components: [{%s}]}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (SECTION % "pol_interval: 3s", "controller.pol_interval: unknown key; did you mean 'poll_interval'"),
        (SECTION % "poll_interval: 30", "controller.poll_interval: '30' is not a duration"),
        (SECTION % "poll_interval: 100ms", "controller.poll_interval: Input should be greater than"),
        (SECTION % "stale_after: 20s", "controller: stale_after must be longer than poll_interval"),
        (BESS % "rating_kw: true", r"devices.bess\[WLCE-BESS-01\].rating_kw: Input should be a valid number"),
        (BESS % "rating_kw: .nan", r"devices.bess\[WLCE-BESS-01\].rating_kw: Input should be a finite"),
        (BESS % "name: null", r"devices.bess\[ab79127d-.*\].name: is missing"),
        (PARTS % "type: emergency_stop, enabled: false", "controller.components"),
        (PARTS % "type: safe_mode", "controller.components"),
        (PARTS % "type: to_soe, target_soe_percent: 101", r"components\[to_soe\].target_soe_percent: "),
        (
            PARTS % "type: limits, min_soe_percent: 95",
            r"components\[limits\]: min_soe_percent 95 must be below",
        ),
        ("site: NO", "site: Input should be a valid string"),
        ("site: A\nsite: B", "line 2: not valid YAML: key 'site' appears twice"),
        ("1: a", "line 1: not valid YAML: key 1 is not text"),
        ("- a", "must be a mapping"),
        ("a: [", "line 1: not valid YAML"),
        (METER % "profile: generic_battery", "describes a bess, not a meter"),
        (
            METER % "modbus: {unit: 1, port: 502}",
            "same modbus host, port and unit: WLCE-BESS-01, WLCE-METER-01",
        ),
        (METER % "measures: X", "no battery of this station"),
        (METER % "profile: x", "known profiles: .*generic_battery"),
    ],
)
def test_a_bad_configuration_names_file_key_and_remedy(files: Files, override: str, message: str) -> None:
    files.override.write_text(override)
    with pytest.raises(ConfigError, match=message) as caught:
        load(files.config, files.override, files.profiles)
    assert str(files.override.parent) in str(caught.value)


def test_a_bad_profile_names_its_file(files: Files) -> None:
    files.override.write_text("devices: {meter: [{id: ab79127d-a435-5f3c-87bf-8943623e4135, profile: odd}]}")
    (files.profiles / "odd.yaml").write_text("name: odd\nversion: 1\ndevice_type: windmill\n")
    with pytest.raises(ConfigError, match=r"odd\.yaml: device_type"):
        load(files.config, files.override, files.profiles)


def test_the_last_good_one_stays_in_force_with_its_profiles(files: Files) -> None:
    files.config.write_text("site: [")
    with pytest.raises(ConfigError, match="no last good configuration"):
        load_or_last_good(files)
    files.config.write_text(CONFIG)
    good = load_or_last_good(files)
    assert good.problems == ()
    keep_as_last_good(good, files.last_good)
    files.config.write_text(CONFIG.replace("unit: 1", "unit: one"))
    kept = load_or_last_good(files)
    assert kept.config == good.config
    assert kept.profiles == good.profiles
    assert kept.hash == good.hash
    assert "modbus.unit" in kept.problems[0]
    files.last_good.write_text("config: {}")
    with pytest.raises(ConfigError, match="no last good configuration"):
        load_or_last_good(files)


@pytest.mark.parametrize(
    "content",
    [
        "hosts: [db]\nname: flux\nuser: w\npassword: {a: hunter2}",
        "hosts: [db]\npassword: hunter2\n- x",
        "hunter2",
    ],
)
def test_messages_about_the_database_file_quote_no_value(files: Files, content: str) -> None:
    files.database.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_database(files.database)
    assert "hunter2" not in str(caught.value)
    assert "database.yaml" in str(caught.value)


def test_the_password_is_not_in_the_representation(files: Files) -> None:
    files.database.write_text("hosts: [db]\nname: flux\nuser: w\npassword: hunter2")
    database = load_database(files.database)
    assert database.password == "hunter2"
    assert "hunter2" not in repr(database)


SCALARS = st.one_of(st.booleans(), st.integers(), st.text("ab", max_size=3))
DOCUMENTS = st.recursive(
    st.one_of(SCALARS, st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
        st.lists(
            st.fixed_dictionaries({"id": st.sampled_from("xyz")}, optional={"v": inner}),
            max_size=3,
            unique_by=lambda item: item["id"],
        ),
    ),
    max_leaves=12,
)
MAPS = st.dictionaries(st.sampled_from("abcd"), DOCUMENTS, max_size=4)


def without_nulls(value: Any) -> Any:
    """A base file has no reason to hold nulls: only an override deletes."""
    return merge({}, value)


@given(MAPS.map(without_nulls), MAPS)
def test_merging_twice_is_merging_once_and_nothing_else_changes(
    base: dict[str, Any], over: dict[str, Any]
) -> None:
    merged = merge(base, over)
    assert merge(merged, over) == merged
    assert merge(base, {}) == base
    for key in base.keys() - over.keys():
        assert merged[key] == base[key]
    for key, value in over.items():
        assert (key in merged) == (value is not None)


@given(MAPS.map(without_nulls), MAPS)
def test_merging_survives_yaml(base: dict[str, Any], over: dict[str, Any]) -> None:
    def again(value: Any) -> Any:
        return yaml.safe_load(yaml.safe_dump(value))

    assert merge(again(base), again(over)) == merge(base, over)


@pytest.mark.criterion("MW-19")
def test_registers_that_wear_are_not_written_more_often_than_they_bear(files: Files) -> None:
    bess = "devices: {bess: [{id: ab79127d-a435-5f3c-87bf-8943623e4134, profile: sunspec_inverter_legacy}]}"
    files.override.write_text(f"{bess}\ncontroller: {{poll_interval: 2s}}")
    with pytest.raises(
        ConfigError, match="bears a set-point every 10 s, and WLCE-BESS-01 would get one every 2 s"
    ):
        load(files.config, files.override)
    files.override.write_text(f"{bess}\ncontroller: {{poll_interval: 15s}}")
    assert load(files.config, files.override).profiles["sunspec_inverter_legacy"].min_write_interval_s == 10
