"""Conditions that must hold at the moment of a write; missing or stale input blocks it too. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

from stationkeeper.modbus.reading import Place, plain

# When a condition counts: always, for what is not towards zero, or for one direction of power.
When = Literal["always", "not_towards_zero", "discharging", "charging"]


@dataclass(frozen=True, slots=True)
class Given:
    """A value that was read elsewhere in the same run, at `read_at` (UTC), and how old it may be."""

    value: Decimal | None
    read_at: datetime | None
    max_age_s: float


@dataclass(frozen=True, slots=True)
class Moving:
    """A heartbeat that has to move within `max_age_s`, or everything read from this device is stale."""

    place: Place
    max_age_s: float


@dataclass(frozen=True, slots=True)
class Latch:
    """The folder of the emergency-stop latch on this host; its value is 1 when latched."""

    folder: Path


@dataclass(frozen=True, slots=True)
class Interlock:
    """A condition on a value from `source`, which is read right before the write."""

    name: str
    source: Place | Given | Moving | Latch
    equals: Decimal | None = None
    differs: Decimal | None = None
    minimum: Decimal | None = None
    maximum: Decimal | None = None
    when: When = "always"

    def applies(self, value: Decimal, *, towards_zero: bool) -> bool:
        """Whether the condition counts for a write of `value` (+ discharges)."""
        if self.when == "always":
            return True
        if towards_zero:
            return False
        return (
            self.when == "not_towards_zero"
            or (self.when == "discharging" and value > 0)
            or (self.when == "charging" and value < 0)
        )

    def objection(self, value: Decimal | None) -> str | None:
        """Return why this value blocks the write, or None."""
        if value is None:
            return f"{self.name}: its input is missing"
        if self.equals is not None and value != self.equals:
            return f"{self.name}: is {plain(value)}, must be {plain(self.equals)}"
        if self.differs is not None and value == self.differs:
            return f"{self.name}: is {plain(value)}, which forbids the write"
        if self.minimum is not None and value < self.minimum:
            return f"{self.name}: is {plain(value)}, must be at least {plain(self.minimum)}"
        if self.maximum is not None and value > self.maximum:
            return f"{self.name}: is {plain(value)}, must be at most {plain(self.maximum)}"
        return None


def objection_to_age(name: str, given: Given, now: datetime) -> str | None:
    """Return why a value that was read elsewhere cannot be used at `now`, or None."""
    if given.value is None:
        return f"{name}: its input is missing"
    if given.read_at is None:
        return f"{name}: nobody says when its input was read"
    age_s = (now - given.read_at).total_seconds()
    # A reading from the future is as unbelievable as an old one.
    if not -1 <= age_s <= given.max_age_s:
        return f"{name}: its input is {age_s:.1f} s old, allowed are {given.max_age_s:g} s"
    return None
