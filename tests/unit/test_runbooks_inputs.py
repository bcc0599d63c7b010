"""Validation of a runbook's inputs, as typed by operators and as sent by AWX surveys."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stationkeeper.runbooks.description import Description, DescriptionError, parse_description
from stationkeeper.runbooks.inputs import InputError, validate_inputs


def raw(**changes: Any) -> dict[str, Any]:
    description: dict[str, Any] = {
        "title": "Find missing telemetry",
        "purpose": "Finds it.",
        "area": "sample",
        "risk": "read",
        "owner": "operations",
        "target_group": "stations",
        "lock": {"scope": "none"},
        "minimum_reachable": 1,
        "undo": "Nothing to undo.",
        "point_of_no_return": "There is none.",
        "verifies": ["It is found."],
        "alerts": [],
        "drill": None,
        "source": "the tests",
    }
    return {**description, **changes}


def describe(**changes: Any) -> Description:
    return parse_description("sample_work", raw(**changes))


def inputs(**specs: dict[str, Any]) -> dict[str, Any]:
    return {name: {"description": "An input.", **spec} for name, spec in specs.items()}


def problems(description: Description, extra_vars: dict[str, Any], *, check_mode: bool = False) -> list[str]:
    with pytest.raises(InputError) as caught:
        validate_inputs(description, extra_vars, check_mode=check_mode)
    return caught.value.problems


@pytest.mark.parametrize(
    ("spec", "given_value", "value"),
    [
        ({"type": "int"}, "24", 24),
        ({"type": "int"}, 24, 24),
        ({"type": "float"}, "0.5", 0.5),
        ({"type": "float"}, 2, 2.0),
        ({"type": "bool"}, "yes", True),
        ({"type": "bool"}, "False", False),
        ({"type": "str"}, 7, "7"),
        ({"type": "list"}, "a, b\nc", ["a", "b", "c"]),
        ({"type": "list", "elements": "int"}, "[1, 2]", [1, 2]),
        ({"type": "list", "elements": "int"}, "1,2", [1, 2]),
        ({"type": "dict"}, '{"a": 1}', {"a": 1}),
        ({"type": "str", "choices": ["a", "b"]}, "b", "b"),
        ({"type": "int", "default": 3}, "", 3),
        ({"type": "list", "default": ["x"]}, None, ["x"]),
        ({"type": "float", "default": 24}, None, 24.0),
    ],
)
def test_values_are_converted(spec: dict[str, Any], given_value: Any, value: Any) -> None:
    result = validate_inputs(describe(inputs=inputs(x=spec)), {"x": given_value}, check_mode=False)
    assert result.values == {"x": value}
    assert type(result.values["x"]) is type(value)


@pytest.mark.parametrize(
    ("spec", "given_value", "message"),
    [
        ({"type": "int"}, "many", "Input `x` must be a whole number, not 'many'."),
        ({"type": "int"}, "2.5", "Input `x` must be a whole number, not '2.5'."),
        ({"type": "int"}, True, "Input `x` must be a whole number, not True."),
        ({"type": "float"}, "nan", "Input `x` must be a finite number, not 'nan'."),
        ({"type": "bool"}, "maybe", "Input `x` must be true or false, not 'maybe'."),
        ({"type": "str"}, ["a"], "Input `x` must be text, not ['a']."),
        ({"type": "dict"}, "[1]", "Input `x` must be a mapping, not [1]."),
        ({"type": "list", "elements": "int"}, "1,b", "Input `x` must be a whole number, not 'b'."),
        ({"type": "str", "choices": ["a", "b"]}, "c", "Input `x` is 'c'; it must be one of: a, b."),
        ({"type": "str", "required": True}, " ", "Input `x` is required: An input."),
    ],
)
def test_bad_values_are_refused(spec: dict[str, Any], given_value: Any, message: str) -> None:
    assert problems(describe(inputs=inputs(x=spec)), {"x": given_value}) == [message]


def test_unknown_inputs_get_a_hint() -> None:
    description = describe(inputs=inputs(window_hours={"type": "int"}))
    found = problems(description, {"windw_hours": 1, "ansible_host": "x", "zzz": 1})
    assert found == [
        "Unknown input `ansible_host`. Connection variables belong in the inventory.",
        "Unknown input `windw_hours`. Did you mean `window_hours`?",
        "Unknown input `zzz`. Known inputs: confirm, reason, runbook_limit_pending, target, ticket, "
        "window_hours.",
    ]


def test_variables_of_awx_are_recorded() -> None:
    result = validate_inputs(describe(), {"awx_job_id": 7, "tower_user_name": "ada"}, check_mode=False)
    assert result.awx == {"awx_job_id": "7", "tower_user_name": "ada"}


@pytest.mark.parametrize("risk", ["change", "destructive", "safety"])
def test_acting_runbooks_need_a_reason_except_in_check_mode(risk: str) -> None:
    description = describe(risk=risk, lock={"scope": "station"})
    assert any("needs a reason" in text for text in problems(description, {"target": "a", "confirm": "a"}))
    assert any("needs a reason" in text for text in problems(description, {"target": "a", "reason": " "}))
    assert validate_inputs(description, {"target": "a"}, check_mode=True).reason is None


def test_every_problem_is_told_at_once() -> None:
    description = describe(risk="destructive", lock={"scope": "station"})
    assert len(problems(description, {"x": 1, "target": "a"})) == 3


@pytest.mark.parametrize("confirm", [None, "all", "wlce ,hmce", "WLCE"])
def test_the_confirmation_is_the_exact_target(confirm: str | None) -> None:
    description = describe(risk="destructive", lock={"scope": "station"})
    given_inputs = {"target": "wlce", "reason": "r"} | ({"confirm": confirm} if confirm else {})
    assert len(problems(description, given_inputs)) == 1
    assert (
        validate_inputs(description, {**given_inputs, "confirm": "wlce"}, check_mode=False).target == "wlce"
    )


def test_a_read_only_runbook_needs_no_target() -> None:
    assert validate_inputs(describe(), {}, check_mode=False).target is None
    assert (
        "No target given" in problems(describe(risk="change", lock={"scope": "station"}), {"reason": "r"})[0]
    )


NAMES = st.one_of(st.text(), st.sampled_from(["x", "y", "target", "runbook_limit_pending", "awx_job_id"]))


@given(st.dictionaries(NAMES, st.one_of(st.none(), st.text(), st.integers(), st.lists(st.text()))))
def test_whatever_comes_is_accepted_or_refused_with_words(extra_vars: dict[str, Any]) -> None:
    description = describe(inputs=inputs(x={"type": "int"}, y={"type": "list"}))
    unknown = set(extra_vars) - {"x", "y", "target", "reason", "ticket", "confirm", "runbook_limit_pending"}
    if any(not name.startswith(("awx_", "tower_")) for name in unknown):
        assert len(problems(description, extra_vars)) >= 1
        return
    # No unknown name: either typed values, or a refusal in words; never another exception.
    with contextlib.suppress(InputError):
        assert set(validate_inputs(description, extra_vars, check_mode=False).values) == {"x", "y"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"risk": "change"}, "risk change needs a lock"),
        ({"title": "find it"}, "title: a title starts with a capital letter"),
        ({"minimum_reachable": -1}, "minimum_reachable"),
        ({"inputs": inputs(awx_x={})}, "are reserved"),
        ({"inputs": inputs(target={})}, "is built in and is not declared"),
        ({"inputs": inputs(x={"required": True, "default": 1})}, "a required input has no default"),
        ({"inputs": inputs(x={"no_log": True})}, "inputs.x.no_log: Extra inputs"),
        ({"inputs": {"x": {}}}, "inputs.x.description: Field required"),
        ({"purpose": "Uses {{ x }}."}, "no templates: runbook.purpose"),
    ],
)
def test_bad_descriptions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DescriptionError) as caught:
        describe(**changes)
    assert message in str(caught.value)
    assert str(caught.value).startswith("sample_work: ")


def test_a_runbook_without_a_description() -> None:
    with pytest.raises(DescriptionError, match="the first play must carry `vars: runbook:`"):
        parse_description("sample_work", None)
