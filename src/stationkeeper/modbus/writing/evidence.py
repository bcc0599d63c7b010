"""What one write has done and seen, for the caller and for the audit row."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from stationkeeper.modbus.errors import ModbusError
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.modbus.reading import Reading, hexadecimal, plain
from stationkeeper.modbus.writing.request import Plan


@dataclass(slots=True)
class Attempt:
    """One write request that left. `words` as sent, `answer` what came back."""

    at: datetime
    function: int
    address: int
    words: tuple[int, ...]
    answer: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "at": stamp(self.at),
            "function": self.function,
            "address": self.address,
            "words": hexadecimal(self.words),
            "answer": self.answer,
        }


@dataclass(frozen=True, slots=True)
class Sample:
    """One read-back, `at_s` after the acknowledged write; `reading` None when it failed for `error`."""

    at: datetime
    at_s: float
    reading: Reading | None
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        entry: dict[str, Any] = {"at": stamp(self.at), "at_s": round(self.at_s, 3)}
        if self.reading is None:
            return entry | {"error": self.error}
        value = self.reading.value
        return entry | {"value": as_number(value), "words": hexadecimal(self.reading.words)}


@dataclass(slots=True)
class WriteResult:
    """What became of one write. `outcome` is None for a write that a dry run would send.

    `changed`: the effective value differed before, or that is not known. `after` is the last reading of the
    written register, `effect` that of the read-back register.
    """

    plan: Plan
    outcome: Outcome | None = None
    changed: bool = False
    message: str = ""
    before: Reading | None = None
    after: Reading | None = None
    effect_before: Reading | None = None
    effect: Reading | None = None
    words: tuple[int, ...] = ()
    attempts: list[Attempt] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    interlocks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    duration_s: float = 0.0
    verified_s: float | None = None

    @property
    def name(self) -> str:
        """What was written."""
        return self.plan.place.name

    @property
    def left(self) -> bool:
        """True when at least one write request left."""
        return bool(self.attempts)

    @property
    def is_acceptable(self) -> bool:
        """True for a proven write, a planned one, and one that was asked to be without proof."""
        if self.outcome is None or self.outcome.is_success:
            return True
        return self.outcome is Outcome.ACCEPTED_UNVERIFIED and self.plan.request.verify.mode == "none"

    def fail(self, error: ModbusError) -> None:
        """Take over the outcome of an error."""
        self.outcome, self.message = error.outcome, error.message

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for a caller."""
        place = self.plan.place
        return {
            "name": place.name,
            "table": str(place.table),
            "address": place.address,
            "value": as_number(self.plan.value),
            "unit": place.unit,
            "outcome": None if self.outcome is None else str(self.outcome),
            "changed": self.changed,
            "message": self.message,
            "words": list(self.words),
            "before": shown(self.before),
            "after": shown(self.after),
            "evidence": {
                "read_back_before": shown(self.effect_before),
                "read_back": shown(self.effect),
                "samples": [sample.as_dict() for sample in self.samples],
                "interlocks": list(self.interlocks),
            },
            "attempts": [attempt.as_dict() for attempt in self.attempts],
            "timings": {"duration_s": round(self.duration_s, 3), "verified_s": self.verified_s},
        }

    def diff(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return before and after of the written registers, in engineering units and raw."""
        words = self.words or self.plan.words
        target = Reading(self.plan.place, words)
        after = target if self.after is None else self.after
        return _diff_side(self.before), _diff_side(after)


def shown(reading: Reading | None) -> dict[str, Any] | None:
    """Return a reading as plain data; None for none."""
    if reading is None:
        return None
    return {
        "value": as_number(reading.value),
        "text": str(reading),
        "words": hexadecimal(reading.words),
        "registers": reading.registers,
    }


def as_number(value: Decimal | float | int | None) -> int | float | None:
    """Return a value as JSON has it: an integer where it is whole."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


def stamp(moment: datetime) -> str:
    """Return a UTC time in RFC 3339 with milliseconds."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _diff_side(reading: Reading | None) -> dict[str, Any]:
    if reading is None:
        return {"value": plain(None), "registers": {}}
    registers = {name: f"0x{word}" for name, word in reading.registers.items()}
    return {"value": reading.place.show(reading.value), "registers": registers}
