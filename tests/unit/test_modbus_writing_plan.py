"""What is decided before a socket is opened: words, bounds, functions, options that do not fit."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from modbus_writing_bench import QUICK, profile_content

from stationkeeper.modbus.client import Table
from stationkeeper.modbus.codec import DataType, Encoding
from stationkeeper.modbus.errors import ModbusError, RequestError
from stationkeeper.modbus.options import MODBUS_WRITE, WRITE
from stationkeeper.modbus.reading import Place, Reading, parse_reference
from stationkeeper.modbus.writing import job
from stationkeeper.modbus.writing.clock import Clock
from stationkeeper.modbus.writing.module import write_job
from stationkeeper.modbus.writing.request import Request, Verify, plan

LIMIT = Place("limit", Table.HOLDING, 20, Encoding(DataType.INT16, scale=Decimal("0.1")), "kW")
WIDE = Place("wide", Table.HOLDING, 30, Encoding(DataType.INT32))
RATIO = Place("ratio", Table.HOLDING, 40, Encoding(DataType.FLOAT32))
FIELD = Place("field", Table.HOLDING, 21, Encoding(DataType.UINT16, mask=0x0F00))
BIT = Place("bit", Table.HOLDING, 21, Encoding(DataType.BIT, bit=3))
RELAY = Place("relay", Table.COIL, 8, Encoding(DataType.BIT))
MEASURED = Place("measured", Table.INPUT, 8, Encoding(DataType.UINT16))


@pytest.mark.criterion("MW-4")
@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        # Decimal arithmetic: 0.3 / 0.1 is 2.9999999999999996 in binary.
        (LIMIT, 0.3, (3,)),
        (LIMIT, "0.3", (3,)),
        (LIMIT, Decimal("-0.3"), (0xFFFD,)),
        (LIMIT, 3276.7, (0x7FFF,)),
        (WIDE, -2, (0xFFFF, 0xFFFE)),
        (RATIO, 0.1, (0x3DCC, 0xCCCD)),
        (FIELD, 10, (0x0A00,)),
        (BIT, True, (8,)),
        (RELAY, 1, (1,)),
    ],
)
def test_the_exact_words(place: Place, value: Any, words: tuple[int, ...]) -> None:
    assert plan(Request(place, value)).words == words


@pytest.mark.criterion("MW-4")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "-inf", "NaN"])
@pytest.mark.parametrize("place", [LIMIT, RATIO])
def test_not_a_finite_number(place: Place, value: Any) -> None:
    with pytest.raises(RequestError, match="not a finite number"):
        plan(Request(place, value))


@pytest.mark.criterion("MW-4")
@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(LIMIT, True), "True is not a number; write 1 if you mean that"),
        (Request(LIMIT, "much"), "'much' is not a number"),
        (Request(LIMIT, [1]), "not a number"),
        (Request(LIMIT, 3276.8), "out of the range of int16"),
        (Request(LIMIT, 0.05), "not a multiple of the register's step 0.1"),
        (Request(LIMIT, 51, maximum=50), r"51 is out of bounds \(any to 50 kW\)"),
        (Request(LIMIT, -1, minimum=0), r"-1 is out of bounds \(0 to any kW\)"),
        (Request(LIMIT, 0.26, maximum=0.26, rounding="nearest"), "0.3 is out of bounds"),
        (Request(LIMIT, 1, max_step=0), "max_step must be above 0"),
        (Request(BIT, 2), "a bit is 0 or 1"),
        (Request(FIELD, 16), "does not fit the mask"),
        (Request(MEASURED, 1), "input cannot be written"),
        (Request(LIMIT, 1, expect="often"), "'often' is not a number"),
    ],
)
def test_a_wrong_value_is_refused(request_: Request, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        plan(request_)


@pytest.mark.criterion("MW-4")
def test_nearest_is_said_explicitly() -> None:
    rounded = plan(Request(LIMIT, 0.26, rounding="nearest"))
    assert (rounded.words, rounded.value) == ((3,), Decimal("0.3"))


@pytest.mark.criterion("MW-5")
@pytest.mark.parametrize(("place", "functions"), [(WIDE, {16}), (RATIO, {16}), (LIMIT, {6, 16})])
def test_only_whole_values_leave(place: Place, functions: set[int]) -> None:
    allowed = set()
    for function in (5, 6, 15, 16, 22):
        with contextlib.suppress(RequestError):
            plan(Request(place, 1, function=function))
            allowed.add(function)
    assert allowed == functions


@pytest.mark.criterion("MW-5")
def test_a_device_that_takes_values_in_pieces_needs_a_sequence() -> None:
    with pytest.raises(RequestError, match="recipe or group that disables, writes and enables"):
        plan(Request(WIDE, 1, atomic=False))
    assert plan(Request(WIDE, 1, atomic=False, in_sequence=True)).words == (0, 1)
    assert plan(Request(LIMIT, 1, atomic=False)).words == (10,)


@pytest.mark.criterion("MW-11")
@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(LIMIT, 1, write_only=True), "set verify.mode to readback"),
        (Request(LIMIT, 1, write_only=True, verify=Verify(mode="none")), "semantic to refresh"),
        (
            Request(LIMIT, 1, write_only=True, semantic="pulse", verify=Verify(mode="none"), expect=1),
            "expect",
        ),
        (Request(FIELD, 1, write_only=True, semantic="pulse", verify=Verify(mode="none")), "function 22"),
        (Request(LIMIT, 1, semantic="pulse"), "reads back as something else"),
    ],
)
def test_a_register_that_cannot_be_read_back_needs_an_explicit_choice(
    request_: Request, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        plan(request_)


@pytest.mark.criterion("MW-10")
def test_the_holding_time_covers_two_cycles_of_another_master() -> None:
    with pytest.raises(RequestError, match="shorter than two cycles of another master"):
        Verify(hold_s=3.9, other_master_cycle_s=2)
    Verify(hold_s=4, other_master_cycle_s=2)
    Verify(hold_s=0, other_master_cycle_s=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"window_s": 0},
        {"interval_s": float("nan")},
        {"samples": 0},
        {"hold_s": float("inf")},
        {"place": LIMIT},
    ],
)
def test_a_pace_that_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"verify\."):
        Verify(**wrong)


@pytest.mark.criterion("MW-11")
def test_a_read_back_register_has_its_own_scale_and_tolerance() -> None:
    coarse = Place("active", Table.INPUT, 5, Encoding(DataType.INT16))
    planned = plan(Request(LIMIT, 2.6, verify=replace(QUICK, mode="readback", place=coarse)))
    assert (planned.wanted, planned.tolerance) == (3, Decimal("0.5"))
    exact = plan(Request(LIMIT, 2.6, verify=replace(QUICK, mode="readback", place=coarse, tolerance=0.4)))
    assert exact.tolerance == Decimal("0.4")


def test_classic_references() -> None:
    assert parse_reference("40001") == (Table.HOLDING, 0)
    assert parse_reference("465536") == (Table.HOLDING, 65535)
    assert parse_reference(30010) == (Table.INPUT, 9)
    assert parse_reference("00009") == (Table.COIL, 8)
    for wrong in ("40000", "20001", "4001", "465537", 8):
        with pytest.raises(RequestError, match="is not of the form"):
            parse_reference(wrong)


def test_values_are_shown_for_people() -> None:
    assert str(Reading(LIMIT, (400,))) == "40 kW (0190)"
    assert str(Reading(LIMIT, (0xFFFD,))) == "-0.3 kW (FFFD)"
    assert str(Reading(RATIO, (0x7FC0, 0))) == "missing (7FC0 0000)"


def parameters(**changes: Any) -> dict[str, Any]:
    """Parameters as Ansible completes them."""
    complete = {name: spec.get("default") for name, spec in MODBUS_WRITE.items()}
    return complete | {"host": "127.0.0.1", "port": 1} | changes


def entry(**changes: Any) -> dict[str, Any]:
    return {name: spec.get("default") for name, spec in WRITE.items()} | changes


@pytest.mark.parametrize(
    ("given", "group", "message"),
    [
        ({"value": 5}, None, "needs either `point`"),
        ({"point": "power_kw", "value": 5}, None, "needs a `profile`"),
        ({"address": 1, "reference": "40002", "value": 5}, None, "give either"),
        ({"reference": "30002", "table": "holding", "value": 5}, None, "in table input, not holding"),
        ({"address": 70000, "value": 5}, None, "not within 0 to 65535"),
        ({"address": 1, "scale": 0, "value": 5}, None, "scale must be"),
        ({"address": 1, "table": "coil", "type": "int16", "value": 5}, None, "holds bits"),
        ({"address": 1, "type": "bit", "value": 1}, None, "needs `bit`"),
        ({"address": 1, "value": 5, "on_partial": "stop"}, None, "on_partial goes with group or recipe"),
        ({"address": 1, "value": 5, "power_kw": 3}, None, "power_kw goes with the recipe"),
        ({"address": 1, "value": 5, "write_attempts": 0}, None, "write_attempts must be at least 1"),
        ({"address": 1, "value": 5, "settle_s": -1}, None, "settle_s must be 0 or more"),
        ({"address": 1, "value": 5, "response_timeout_s": 0}, None, "response_timeout_s must be above 0"),
        ({"address": 1, "value": 5, "gateway": {"timeout_s": 5, "retries": 2}}, None, "too short"),
        ({"address": 1, "value": 5, "profile": "none"}, None, "no profile 'none'"),
        ({"value": 5, "point": "nothing", "profile": "generic_battery"}, None, "has no point 'nothing'"),
        ({"value": 5000, "point": "power_command_kw", "profile": "generic_battery"}, None, "out of bounds"),
        ({"recipe": "stop"}, None, "a recipe needs a `profile`|give `profile`"),
        (
            {"recipe": "stop", "address": 4, "profile": "generic_battery"},
            None,
            "address is of a single write",
        ),
        (
            {"recipe": "stop", "power_kw": 4, "profile": "generic_battery"},
            None,
            "goes with the recipe set_power",
        ),
        ({"recipe": "set_power", "profile": "generic_battery"}, None, "goes with the recipe set_power"),
        (
            {"recipe": "stop", "profile": "generic_battery", "verify": {"mode": "none"}},
            None,
            "verify.mode does not go with a recipe",
        ),
        ({"recipe": "stop", "profile": "generic_meter"}, None, "it has none"),
        ({"group": [1], "expect": 4}, [entry(address=1, value=2)], "expect is of a single write"),
        ({"group": [1]}, [entry(address=1, value=2)], "set on_partial to none"),
        ({"group": []}, [], "group is empty"),
        ({"group": [1], "on_partial": "none"}, [entry(address=1)], "a write needs a `value`"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_before_a_socket_is_opened(
    given: dict[str, Any], group: Any, message: str, tmp_path: Path
) -> None:
    def attempt() -> None:
        made = write_job(parameters(**given), group, dry_run=False)
        asyncio.run(job.carry_out(made, clock=Clock(), directory=tmp_path))

    with pytest.raises(RequestError, match=message):
        attempt()
    assert list(tmp_path.iterdir()) == [], "not even the lock was taken"


@pytest.mark.criterion("MW-15")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "set allow_broadcast"),
        ({"allow_broadcast": True}, "set verify.mode to none"),
        ({"allow_broadcast": True, "table": "coil"}, "only whole registers"),
    ],
)
def test_a_broadcast_is_asked_for_and_never_proven(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    made = write_job(parameters(address=1, value=1, unit=0, **given), None, dry_run=False)
    with pytest.raises(ModbusError, match=message):
        asyncio.run(job.carry_out(made, clock=Clock(), directory=tmp_path))


def test_a_caller_narrows_the_limits_of_a_profile_and_never_widens_them() -> None:
    profile = {"profile_content": profile_content(), "point": "power_command_kw"}
    for value, bounds in ((60, {"max": 50}), (1001, {"max": 2000})):
        made = write_job(parameters(value=value, **profile, **bounds), None, dry_run=True)
        with pytest.raises(RequestError, match="out of bounds"):
            asyncio.run(job.carry_out(made, clock=Clock()))
