"""Faults that a simulated server can be told to have, at any time and by kind. Pure: it keeps the accounts.

A *request* fault hits single requests: it can be narrowed to a unit, functions and an address, skip the
first `after` matching requests, and end by itself after `count` hits. A *standing* fault is a state that
lasts until it is cleared.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stationkeeper.simulator.fault_kinds import KINDS, Stage
from stationkeeper.simulator.protocol import READ_FUNCTIONS, WRITE_FUNCTIONS, Request


class FaultError(ValueError):
    """A fault that does not exist, or parameters that it does not take; the message names what is allowed."""


_SELECTORS = ("functions", "address", "count", "after")


class Fault(BaseModel):
    """One fault. `unit` None means every unit of the server; units of the rest are in `KINDS`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    unit: int | None = Field(default=None, ge=1, le=247)
    functions: frozenset[int] | None = None
    address: int | None = Field(default=None, ge=0, le=0xFFFF)
    count: int | None = Field(default=None, ge=1)
    after: int = Field(default=0, ge=0)
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    code: int | None = Field(default=None, ge=1, le=11)
    value: float | None = Field(default=None, allow_inf_nan=False)
    point: str | None = None
    half: Literal["first", "second"] | None = None
    low: float | None = Field(default=None, ge=0, le=100)
    high: float | None = Field(default=None, ge=0, le=100)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Fault:
        kind = KINDS.get(self.kind)
        if kind is None:
            raise ValueError(f"unknown fault kind {self.kind!r}; kinds are {', '.join(KINDS)}")
        allowed = {*kind.takes, *(("unit",) if kind.per_unit else ())}
        if kind.stage is not Stage.STANDING:
            allowed |= set(_SELECTORS)
        given = self.model_fields_set - {"kind"}
        wrong = sorted(name for name in given - allowed if getattr(self, name) is not None)
        if wrong:
            raise ValueError(
                f"fault {self.kind} takes no {', '.join(wrong)}; it takes {', '.join(sorted(allowed))}"
            )
        missing = [name for name in kind.needs if getattr(self, name) is None]
        if missing:
            raise ValueError(f"fault {self.kind} needs {', '.join(missing)}")
        if self.kind == "soe_limit" and self.low is None and self.high is None:
            raise ValueError("fault soe_limit needs low or high, in percent")
        if self.functions is not None and not self.functions <= set(WRITE_FUNCTIONS + READ_FUNCTIONS):
            raise ValueError(f"fault {self.kind}: functions are 1 to 6, 15, 16, 22, 23")
        return self

    @property
    def stage(self) -> Stage:
        """Where the fault acts."""
        return KINDS[self.kind].stage

    def matches(self, unit: int, request: Request) -> bool:
        """Return whether this request is one that the fault may hit."""
        of_kind = KINDS[self.kind].functions
        return (
            self.unit in (None, unit)
            and (self.functions is None or request.function in self.functions)
            and (of_kind is None or request.function in of_kind)
            and (self.address is None or request.touches(self.address))
        )


def parse_fault(content: dict[str, Any]) -> Fault:
    """Return the fault that JSON or YAML describes. Raises `FaultError` with every problem in one line."""
    try:
        return Fault.model_validate(content)
    except ValidationError as error:
        problems = [
            ": ".join([*map(str, detail["loc"]), detail["msg"].removeprefix("Value error, ")])
            for detail in error.errors()
        ]
        raise FaultError("; ".join(problems)) from None


@dataclass
class ActiveFault:
    """A fault that is set: its number, and how often it has matched and hit."""

    number: int
    fault: Fault
    matched: int = 0
    hits: int = 0

    @property
    def spent(self) -> bool:
        """True when it has hit as often as it should."""
        return self.fault.count is not None and self.hits >= self.fault.count


class Faults:
    """The faults of one server. May be used from any thread.

    `check` refuses (`FaultError`) what the server cannot do, without setting it; `changed` is told of each
    set and clear before these return.
    """

    def __init__(
        self,
        check: Callable[[Fault], None] = lambda _: None,
        changed: Callable[[ActiveFault | None], None] = lambda _: None,
    ) -> None:
        self.check = check
        self._changed = changed
        self._lock = threading.Lock()
        self._active: list[ActiveFault] = []
        self._numbered = 0

    def set(self, fault: Fault) -> int:
        """Begin a fault and return its number. Of several at one stage, the first that matches hits."""
        self.check(fault)
        with self._lock:
            self._numbered += 1
            active = ActiveFault(self._numbered, fault)
            self._active = [*self._active, active]
        self._changed(active)
        return active.number

    def clear(self, kind: str | None = None, *, unit: int | None = None, number: int | None = None) -> int:
        """End the faults that match all that is given (without anything: all) and return how many."""
        if kind is not None and kind not in KINDS:
            raise FaultError(f"unknown fault kind {kind!r}; kinds are {', '.join(KINDS)}")
        with self._lock:
            ended = [
                active
                for active in self._active
                if kind in (None, active.fault.kind)
                and unit in (None, active.fault.unit)
                and number in (None, active.number)
            ]
            self._active = [active for active in self._active if active not in ended]
        self._changed(None)
        return len(ended)

    def active(self) -> list[ActiveFault]:
        """Return the faults that are set and not spent, in the order in which they were set."""
        return list(self._active)

    def states(self, unit: int) -> list[Fault]:
        """Return the states that a unit is in: its standing faults and local mode."""
        return [
            active.fault
            for active in self._active
            if (active.fault.stage is Stage.STANDING or active.fault.kind == "local_mode")
            and active.fault.unit in (None, unit)
        ]

    def take(self, stage: Stage, unit: int, request: Request) -> Fault | None:
        """Return the fault that hits this request at this stage, and count the hit."""
        if not self._active:
            return None
        with self._lock:
            for active in self._active:
                if active.fault.stage is not stage or not active.fault.matches(unit, request):
                    continue
                active.matched += 1
                if active.matched <= active.fault.after:
                    continue
                active.hits += 1
                if active.spent:
                    self._active = [other for other in self._active if other is not active]
                return active.fault
        return None
