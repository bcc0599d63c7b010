"""What holds the whole station: latch, maintenance, safe mode, idleness after them; and its set-point. Pure.

`Modes.update` is called several times a second with what the guard saw. While the clock is not synchronised,
nothing ends or begins by the clock: a hold stays, a set-point is not followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from stationkeeper.controller.orders import (
    KINDS,
    MAINTENANCE,
    SAFE_MODE,
    SETPOINT,
    Order,
    OrderState,
    format_time,
)
from stationkeeper.controller.windows import Span, Window, open_span

SAFE_MODE_REASONS = (
    "order",
    "order_unreadable",
    "config",
    "clock",
    "stale",
    "heartbeat",
    "identity",
    "local_mode",
    "verification",
)
UNTIL_FRESH = "0 kW until a fresh set-point"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why safe mode holds; ``code`` is one of `SAFE_MODE_REASONS`."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What the guard found on the disk; ``latch`` is why the station is latched, None when it is not.

    While the disk does not answer, it is ``unknown``: that holds the station, but nobody gave a stop.
    """

    latch: str | None
    orders: Mapping[str, OrderState] = field(default_factory=dict)
    unknown: bool = False

    def order(self, kind: str) -> Order | None:
        """Return one order, None when it is absent or cannot be understood."""
        state = self.orders.get(kind)
        return state.order if state else None


@dataclass(frozen=True, slots=True)
class Moment:
    """The wall clock, and whether it can be trusted."""

    now: datetime
    synchronised: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says about holds; ``problems`` say why the files are not in force."""

    maintenance: bool = False
    windows: tuple[Window, ...] = ()
    idle_afterwards: bool = True
    require_clock: bool = True
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Setpoint:
    """The station's set-point in kW, 0 where the order is not followed. ``mark`` tells orders apart."""

    power_kw: float
    mark: str
    valid: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Holds:
    """What holds now; None or empty where nothing does. ``setpoint`` is None without an order for one."""

    latch: str | None
    maintenance: str | None = None
    safe_mode: tuple[Cause, ...] = ()
    idle: str | None = None
    setpoint: Setpoint | None = None


# Until the disk was looked at, the station counts as latched.
UNKNOWN = Holds("not looked at yet")


class Modes:
    """Remembers what a single look cannot tell: which set-points are spent, and what has just ended."""

    def __init__(self, memory: Mapping[str, Any] | None = None) -> None:
        """``memory`` is what `memory` returned before a restart."""
        remembered = memory or {}
        window, idle = remembered.get("window"), remembered.get("idle")
        self._window: str | None = None if window is None else str(window)
        self._idle: str | None = None if idle is None else str(idle)
        self._schedule_known = False
        self._first = True
        self._spent: str | None = None
        self._released: set[tuple[str, datetime]] = set()

    def memory(self) -> dict[str, str | None]:
        """Return what must outlive a restart: an open window, and idleness after one."""
        return {"window": self._window, "idle": self._idle}

    def update(self, seen: Seen, moment: Moment, rules: Rules) -> Holds:
        """Return what holds at a moment."""
        maintenance = self._maintenance(seen, moment, rules)
        safe_mode = tuple(self._safe_mode(seen, moment, rules))
        held = seen.latch is not None or maintenance is not None or bool(safe_mode)
        if held and not seen.unknown:
            self._spend(seen.order(SETPOINT))
        setpoint = self._setpoint(seen.order(SETPOINT), moment, held)
        causes = self._expired(seen, moment)
        if setpoint is not None and setpoint.valid:
            self._idle = None
            self._released |= set(causes)
        idle = [reason for key, reason in causes.items() if key not in self._released]
        idle += [self._idle] if self._idle is not None else []
        # What the disk did not show yet may be older than this start, too.
        self._first = self._first and seen.unknown
        return Holds(
            seen.latch, maintenance, safe_mode, f"{idle[0]}: {UNTIL_FRESH}" if idle else None, setpoint
        )

    def _maintenance(self, seen: Seen, moment: Moment, rules: Rules) -> str | None:
        scheduled = self._scheduled(moment, rules)
        order = seen.order(MAINTENANCE)
        if rules.maintenance:
            return "switched on"
        if order is not None and not _over(order, moment):
            return _describe(order)
        return scheduled

    def _scheduled(self, moment: Moment, rules: Rules) -> str | None:
        """Return the open window's name; opens and closes windows only by a clock that can be trusted."""
        if not rules.windows:
            self._window, self._schedule_known = None, False
            return None
        if moment.synchronised:
            span: Span | None = open_span(rules.windows, moment.now)
            if span is None and self._window is not None and rules.idle_afterwards:
                self._idle = f"maintenance window {self._window} has ended"
            self._window, self._schedule_known = (span.window.name if span else None), True
        if self._window is not None:
            return f"window {self._window}"
        if not self._schedule_known:
            return "the clock is not synchronised, so nobody knows whether a window is open"
        return None

    @staticmethod
    def _safe_mode(seen: Seen, moment: Moment, rules: Rules) -> list[Cause]:
        causes = []
        order = seen.order(SAFE_MODE)
        if order is not None and not _over(order, moment):
            causes.append(Cause("order", _describe(order)))
        problems = [state.problem for kind in KINDS if (state := seen.orders.get(kind)) and state.problem]
        causes += [Cause("order_unreadable", problem) for problem in problems]
        if rules.problems:
            causes.append(Cause("config", f"the configuration is invalid: {rules.problems[0]}"))
        if rules.require_clock and not moment.synchronised:
            causes.append(Cause("clock", "the clock is not synchronised"))
        return causes

    @staticmethod
    def _expired(seen: Seen, moment: Moment) -> dict[tuple[str, datetime], str]:
        """Return the holds that ran out and that nobody has withdrawn."""
        found = {}
        for kind, name in ((SAFE_MODE, "safe mode"), (MAINTENANCE, "maintenance")):
            order = seen.order(kind)
            if order is not None and order.until is not None and _over(order, moment):
                found[kind, order.until] = f"{name} ran out at {format_time(order.until)}"
        return found

    def _spend(self, order: Order | None) -> None:
        self._spent = None if order is None else _mark(order)

    def _setpoint(self, order: Order | None, moment: Moment, held: bool) -> Setpoint | None:
        if order is None or order.power_kw is None or order.until is None:
            return None
        expired = _over(order, moment)
        if self._first or expired:
            self._spend(order)
        if not moment.synchronised:
            reason = "the clock is not synchronised, so nobody knows whether the set-point is still valid"
        elif expired:
            reason = f"the set-point ran out at {format_time(order.until)}"
        elif _mark(order) == self._spent:
            reason = "the set-point is older than the last start or hold"
        elif held:
            reason = "the station is held"
        else:
            reason = f"{order.owner}, valid until {format_time(order.until)}"
            return Setpoint(order.power_kw, _mark(order), True, reason)
        return Setpoint(0.0, _mark(order), False, f"{reason}: {UNTIL_FRESH}")


def _mark(order: Order) -> str:
    """Return what tells this set-point from every other."""
    return f"{order.run_id} {order.since} {order.until} {order.power_kw}"


def _over(order: Order, moment: Moment) -> bool:
    """Tell whether an order has run out for certain."""
    return order.until is not None and moment.synchronised and moment.now >= order.until


def _describe(order: Order) -> str:
    end = f" until {format_time(order.until)}" if order.until else ""
    return f"{order.reason} ({order.owner}{end})"
