"""Judges read-backs after a write. Pure: time comes with the observations."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from stationkeeper.modbus.outcome import Outcome
from stationkeeper.modbus.reading import plain


@dataclass(frozen=True, slots=True)
class Criteria:
    """What counts as proven. Times in seconds from the acknowledged write.

    `wanted` within `tolerance`, in `samples` observations in a row that end within `window_s`, and then for
    `hold_s`. `before` is what was read before the write, None when that is not known.
    """

    wanted: Decimal
    tolerance: Decimal
    samples: int
    window_s: float
    hold_s: float
    before: Decimal | None = None
    unit: str = ""


class Verification:
    """Decides from consecutive observations whether a write has had its effect, and keeps it."""

    def __init__(self, criteria: Criteria) -> None:
        self._criteria = criteria
        self._streak = 0
        self._matched_once = False
        self._complete_at_s: float | None = None
        self._held = False
        self._deviation: Decimal | None = None
        self._values: list[Decimal] = []

    def observe(self, at_s: float, value: Decimal | None) -> None:
        """Take the next observation; None for a value that is missing or could not be read."""
        if value is None:
            # Says nothing about another master, but it interrupts the proof.
            self._streak, self._complete_at_s = 0, None
            return
        self._values.append(value)
        if not self.matches(value):
            self._streak, self._complete_at_s = 0, None
            if self._matched_once:
                self._deviation = value
            return
        self._matched_once = True
        self._streak += 1
        in_time = at_s <= self._criteria.window_s
        if self._complete_at_s is None and self._streak >= self._criteria.samples and in_time:
            self._complete_at_s = at_s
        if self._complete_at_s is not None:
            self._held = at_s - self._complete_at_s >= self._criteria.hold_s

    def matches(self, value: Decimal | None) -> bool:
        """True for a value that is the wanted one."""
        return value is not None and abs(value - self._criteria.wanted) <= self._criteria.tolerance

    def is_finished(self, at_s: float) -> bool:
        """True when nothing that is observed after `at_s` can change the outcome."""
        if self._deviation is not None or self._held:
            return True
        return self._complete_at_s is None and at_s >= self._criteria.window_s

    @property
    def matched_at_s(self) -> float | None:
        """When the wanted number of matches was complete; the value has to stay from then on."""
        return self._complete_at_s

    def verdict(self) -> tuple[Outcome, str]:
        """Return the outcome and a sentence with both numbers."""
        asked = self._show(self._criteria.wanted)
        window = f"{self._criteria.window_s:g} s"
        if self._deviation is not None:
            return Outcome.CONTENDED, (
                f"{asked} was in force and then changed to {self._show(self._deviation)}: another master "
                "writes too; find it and stop it"
            )
        if self._held:
            return Outcome.VERIFIED, f"{asked} read back and held"
        if not self._values:
            return Outcome.ACCEPTED_UNVERIFIED, f"asked {asked}, and nothing could be read back in {window}"
        last = self._values[-1]
        if self._matched_once:
            return Outcome.ACCEPTED_UNVERIFIED, (
                f"{asked} was seen, but not often enough within {window}; raise verify.window_s"
            )
        if self._stands_elsewhere(last):
            return Outcome.REJECTED, (
                f"asked {asked}, the device holds {self._show(last)}: it limits the value, or another "
                "command is in force; ask within its limits"
            )
        return Outcome.ACCEPTED_UNVERIFIED, (
            f"asked {asked}, still {self._show(last)} after {window}: the device ignores the write, or needs "
            "a longer verify.window_s"
        )

    def _stands_elsewhere(self, last: Decimal) -> bool:
        """True when the value has moved away from the old one and come to rest at a third."""
        tail = self._values[-max(2, self._criteria.samples) :]
        before = self._criteria.before
        return before is not None and len(tail) > 1 and last != before and len(set(tail)) == 1

    def _show(self, value: Decimal) -> str:
        return f"{plain(value)} {self._criteria.unit}".rstrip()
