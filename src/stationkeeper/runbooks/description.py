"""The schema of ``vars: runbook:``, by which a runbook describes itself once.

Input validation, the documentation page, AWX templates and the contract tests all follow from it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

Risk = Literal["read", "change", "destructive", "safety"]
InputType = Literal["str", "int", "float", "bool", "list", "dict"]

#: Risks whose runs must give a reason and must have an audit record of their own.
ACTING_RISKS: frozenset[str] = frozenset({"change", "destructive", "safety"})

#: Inputs that every runbook understands without declaring them.
BUILT_IN_INPUTS: dict[str, str] = {
    "target": "Host, group, pattern or `all`, within the runbook's target group.",
    "reason": "Why this run is made; goes into the audit record.",
    "ticket": "Reference of the ticket or change request.",
    "confirm": "For destructive runbooks: the exact text of `target`, typed again.",
    "runbook_limit_pending": "Take the targets from this runbook's pending ledger.",
}

_INPUT_NAME = re.compile(r"^[a-z][a-z0-9_]*$")
_RESERVED_PREFIXES = ("ansible_", "awx_", "tower_", "runbook", "secret_")
_SCALARS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
}

Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=3)]


class DescriptionError(ValueError):
    """A runbook's description is missing or malformed; the text names every problem."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputSpec(_Strict):
    """One input, in the form of an Ansible argument spec."""

    type: InputType = "str"
    description: Sentence
    required: bool = False
    default: Any = None
    choices: list[Any] | None = None
    elements: Literal["str", "int", "float", "bool", "dict"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> InputSpec:
        if self.required and self.default is not None:
            raise ValueError("a required input has no default")
        if self.elements is not None and self.type != "list":
            raise ValueError("`elements` belongs to type list")
        if self.choices is not None and not self.choices:
            raise ValueError("`choices` must not be empty")
        if self.default is not None:
            if not _is_of(self.default, self.type):
                raise ValueError(f"default {self.default!r} is not of type {self.type}")
            values = self.default if self.type == "list" else [self.default]
            if self.choices is not None and any(value not in self.choices for value in values):
                raise ValueError(f"default {self.default!r} is not among the choices")
        return self


class LockSpec(_Strict):
    """Which lock a run takes, and for how long (seconds) it holds without a release."""

    scope: Literal["none", "station", "database", "system"]
    ttl_s: Annotated[int, Field(ge=30, le=86_400)] = 900


class DrillSpec(_Strict):
    """How often, in days, this procedure is rehearsed."""

    cadence_days: Annotated[int, Field(ge=1, le=366)]


class Description(_Strict):
    """Everything a runbook says about itself."""

    title: Sentence
    purpose: Sentence
    area: Annotated[str, StringConstraints(pattern=r"^[a-z]+$")]
    risk: Risk
    owner: Sentence
    target_group: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
    inputs: dict[str, InputSpec] = Field(default_factory=dict)
    lock: LockSpec
    minimum_reachable: Annotated[int, Field(ge=0)] | Literal["all"]
    undo: Sentence
    point_of_no_return: Sentence
    verifies: Annotated[list[Sentence], Field(min_length=1)]
    alerts: list[Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z0-9]+$")]]
    drill: DrillSpec | None
    source: Sentence
    #: Whether `open` knocks at every target's ssh port; false where the runbook does not log in there.
    probe: bool = True
    #: How long unreachable targets stay in the pending ledger, in hours.
    pending_expiry_hours: Annotated[int, Field(ge=1, le=24 * 90)] = 72

    @field_validator("title")
    @classmethod
    def _title_is_a_heading(cls, title: str) -> str:
        if title.endswith(".") or not title[0].isupper():
            raise ValueError("a title starts with a capital letter and has no full stop")
        return title

    @field_validator("inputs")
    @classmethod
    def _names_are_free(cls, inputs: dict[str, InputSpec]) -> dict[str, InputSpec]:
        for name in inputs:
            if not _INPUT_NAME.match(name):
                raise ValueError(f"input {name!r}: use lower-case letters, digits and underscores")
            if name in BUILT_IN_INPUTS:
                raise ValueError(f"input {name!r} is built in and is not declared")
            if name.startswith(_RESERVED_PREFIXES):
                raise ValueError(f"input {name!r}: the prefixes {', '.join(_RESERVED_PREFIXES)} are reserved")
        return inputs

    @model_validator(mode="after")
    def _lock_fits_the_risk(self) -> Description:
        if self.risk in {"change", "destructive"} and self.lock.scope == "none":
            raise ValueError(f"risk {self.risk} needs a lock: scope station, database or system")
        return self

    @property
    def acts(self) -> bool:
        """Whether a real run may change something, and so needs a reason and an audit record."""
        return self.risk in ACTING_RISKS


def _is_of(value: object, type_name: str) -> bool:
    if isinstance(value, bool):
        return type_name == "bool"
    return isinstance(value, _SCALARS[type_name])


def parse_description(name: str, raw: object) -> Description:
    """Validate the raw mapping of runbook `name`; raise DescriptionError that names every problem."""
    if not isinstance(raw, dict):
        raise DescriptionError(f"{name}: the first play must carry `vars: runbook:` as a mapping")
    templated = sorted(_templated(raw))
    if templated:
        raise DescriptionError(
            f"{name}: the description is read without running it, so no templates: {', '.join(templated)}"
        )
    try:
        description = Description.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(_plain(detail["loc"], detail["msg"]) for detail in error.errors())
        raise DescriptionError(f"{name}: {problems}") from error
    if not name.startswith(f"{description.area}_"):
        raise DescriptionError(
            f"{name}: the name must be <area>_<verb>, and the area is {description.area!r}"
        )
    return description


def _plain(location: tuple[int | str, ...], message: str) -> str:
    where = ".".join(str(part) for part in location)
    text = message.removeprefix("Value error, ")
    return f"{where}: {text}" if where else text


def _templated(value: object, where: str = "runbook") -> list[str]:
    if isinstance(value, str):
        return [where] if "{{" in value or "{%" in value else []
    if isinstance(value, dict):
        return [hit for key, item in value.items() for hit in _templated(item, f"{where}.{key}")]
    if isinstance(value, list):
        return [hit for index, item in enumerate(value) for hit in _templated(item, f"{where}.{index}")]
    return []
