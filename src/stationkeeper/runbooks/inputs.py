"""Validate what an operator passed with ``-e`` (or an AWX survey) against a runbook's description."""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass, field
from typing import Any

from stationkeeper.runbooks.description import BUILT_IN_INPUTS, Description, InputSpec

#: Extra variables that AWX adds to every job by itself; they are recorded, not validated.
AWX_PREFIXES = ("awx_", "tower_")

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True)
class Inputs:
    """The validated inputs of one run."""

    values: dict[str, Any]
    target: str | None
    reason: str | None
    ticket: str | None
    limit_pending: bool
    awx: dict[str, str] = field(default_factory=dict)


#: Where Ansible leaves what it cannot read as name=value.
LOOSE_WORDS = "_raw_params"


class InputError(ValueError):
    """The inputs were refused; `problems` holds one sentence for each reason."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(" ".join(problems))


def validate_inputs(description: Description, extra_vars: dict[str, Any], *, check_mode: bool) -> Inputs:
    """Return typed inputs, or raise InputError with every problem found.

    Survey answers arrive as text and are converted. An empty answer counts as not given. Check mode
    needs neither a reason nor a confirmation.
    """
    problems: list[str] = []
    awx = {name: str(value) for name, value in extra_vars.items() if name.startswith(AWX_PREFIXES)}
    given = {name: value for name, value in extra_vars.items() if name not in awx and not _is_empty(value)}

    known = {**BUILT_IN_INPUTS, **description.inputs}
    unknown = sorted(set(extra_vars) - set(awx) - set(known) - {LOOSE_WORDS})
    problems += [_unknown(name, list(known)) for name in unknown]
    if LOOSE_WORDS in extra_vars:
        problems.append(
            f"The words `{extra_vars[LOOSE_WORDS]}` stand without a name: a value with spaces needs quotes "
            "of its own, as in -e 'reason=\"smoke in the container\"'."
        )

    values: dict[str, Any] = {}
    for name, spec in description.inputs.items():
        try:
            values[name] = _value(name, spec, given)
        except ValueError as error:
            problems.append(str(error))

    texts: dict[str, str | None] = {}
    for name in ("target", "reason", "ticket", "confirm"):
        value = given.get(name)
        if value is not None and not isinstance(value, (str, int)):
            problems.append(f"Input `{name}` must be text.")
            value = None
        texts[name] = None if value is None else str(value).strip()

    limit_pending = False
    try:
        limit_pending = _boolean("runbook_limit_pending", given.get("runbook_limit_pending", False))
    except ValueError as error:
        problems.append(str(error))

    problems += _target_problems(description, texts["target"], limit_pending=limit_pending)
    if description.acts and not check_mode and not texts["reason"]:
        problems.append(
            f"A runbook of risk `{description.risk}` needs a reason: add -e 'reason=\"…\"' "
            "(it goes into the audit record)."
        )
    if description.risk == "destructive" and not check_mode:
        problems += _confirm_problems(texts["target"], texts["confirm"])

    if problems:
        raise InputError(problems)
    return Inputs(
        values=values,
        target=texts["target"],
        reason=texts["reason"],
        ticket=texts["ticket"],
        limit_pending=limit_pending,
        awx=awx,
    )


def _target_problems(description: Description, target: str | None, *, limit_pending: bool) -> list[str]:
    if target or limit_pending or description.risk == "read":
        return []
    return [
        "No target given: add -e target=<host, group, pattern or all> "
        f"(within group {description.target_group})."
    ]


def _confirm_problems(target: str | None, confirm: str | None) -> list[str]:
    if target is None:
        return ["A destructive runbook needs an explicit target, also with runbook_limit_pending."]
    if confirm is None:
        return [f"A destructive runbook needs a confirmation: add -e 'confirm={target}'."]
    if confirm != target:
        return [f"The confirmation is {confirm!r}, but the target is {target!r}: they must be equal."]
    return []


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f" Did you mean `{near[0]}`?" if near else f" Known inputs: {', '.join(sorted(known))}."
    if name.startswith("ansible_"):
        hint = " Connection variables belong in the inventory."
    return f"Unknown input `{name}`.{hint}"


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _value(name: str, spec: InputSpec, given: dict[str, Any]) -> Any:
    if name not in given:
        if spec.required:
            raise ValueError(f"Input `{name}` is required: {spec.description}")
        return None if spec.default is None else _convert(name, spec, spec.default)
    value = _convert(name, spec, given[name])
    values = value if spec.type == "list" else [value]
    if spec.choices is not None and any(item not in spec.choices for item in values):
        choices = ", ".join(str(choice) for choice in spec.choices)
        raise ValueError(f"Input `{name}` is {value!r}; it must be one of: {choices}.")
    return value


def _convert(name: str, spec: InputSpec, value: Any) -> Any:
    if spec.type == "list":
        return [_scalar(name, spec.elements or "str", item) for item in _list(name, value)]
    return _scalar(name, spec.type, value)


def _scalar(name: str, type_name: str, value: Any) -> Any:
    if type_name == "bool":
        return _boolean(name, value)
    if type_name == "int":
        return _integer(name, value)
    if type_name == "float":
        return _number(name, value)
    if type_name == "dict":
        return _mapping(name, value)
    if isinstance(value, (dict, list)):
        raise ValueError(f"Input `{name}` must be text, not {value!r}.")
    return str(value)


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"Input `{name}` must be true or false, not {value!r}.")


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"Input `{name}` must be a whole number, not {value!r}.")
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"Input `{name}` must be a whole number, not {value!r}.") from None


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"Input `{name}` must be a number, not {value!r}.")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"Input `{name}` must be a number, not {value!r}.") from None
    if not math.isfinite(number):
        raise ValueError(f"Input `{name}` must be a finite number, not {value!r}.")
    return number


def _list(name: str, value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                parsed = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"Input `{name}` is not a valid list: {error}.") from None
            return list(parsed)
        return [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
    if isinstance(value, dict):
        raise ValueError(f"Input `{name}` must be a list, not {value!r}.")
    return [value]


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"Input `{name}` must be a mapping in JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ValueError(f"Input `{name}` must be a mapping, not {value!r}.")
    return dict(value)
