"""Orders to a station's controller: safe mode, maintenance and a set-point, one file each.

The newest order replaces the one before it. A file that is there and cannot be understood is never ignored:
the controller then holds safe mode. Standard library only: Ansible ships this file to the station.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..files import sync_directory, write_atomically

DIRECTORY = Path("/var/lib/bess_controller/orders")
SAFE_MODE, MAINTENANCE, SETPOINT = KINDS = ("safe_mode", "maintenance", "setpoint")
# Far above any real order; a file without end must not fill the memory.
MAX_BYTES = 65536


class OrderError(Exception):
    """An order that cannot be given, withdrawn or understood; the message says why."""


@dataclass(frozen=True)
class Order:
    """One order. ``until`` is UTC, None in safe mode only: until withdrawn. ``power_kw``: + discharges."""

    kind: str
    reason: str
    owner: str
    run_id: str
    since: datetime
    until: datetime | None = None
    power_kw: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the order's file."""
        record: dict[str, Any] = {
            "reason": self.reason,
            "owner": self.owner,
            "run_id": self.run_id,
            "since": format_time(self.since),
        }
        end = format_time(self.until) if self.until else None
        if self.kind == SETPOINT:
            return record | {"power_kw": self.power_kw, "valid_until": end}
        return record | {"until": end}

    def asks_the_same(self, other: Order) -> bool:
        """Tell whether this order adds nothing to the other.

        A set-point of another run always adds something: it is fresh, also where its numbers are the same.
        """
        same = (self.kind, self.until, self.power_kw) == (other.kind, other.until, other.power_kw)
        mark = "run_id" if self.kind == SETPOINT else "reason"
        return same and bool(getattr(self, mark) == getattr(other, mark))


@dataclass(frozen=True)
class OrderState:
    """What is known of one kind of order. With a ``problem`` there is a file that nobody understands."""

    order: Order | None = None
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON and Ansible."""
        return {
            "present": self.order is not None or self.problem is not None,
            "record": self.order.as_dict() if self.order else None,
            "problem": self.problem,
        }


@dataclass(frozen=True)
class OrderChange:
    """The state before and after, and whether they differ."""

    changed: bool
    before: OrderState
    after: OrderState


def parse_time(text: object) -> datetime:
    """Return a time of RFC 3339 in UTC, to the second. Raises OrderError, also without an offset."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise OrderError(f"{text!r} is not a time; write it like 2026-03-29T01:30:00Z, with its offset")
    try:
        return moment.astimezone(UTC).replace(microsecond=0)
    except OverflowError:
        raise OrderError(f"{text!r} is outside of the calendar") from None


def format_time(moment: datetime) -> str:
    """Return a time as RFC 3339 in UTC, to the second."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def now_utc() -> datetime:
    """Return the wall clock in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def parse_order(kind: str, document: Any) -> Order:
    """Return the order in a file's content. Raises OrderError."""
    if not isinstance(document, dict):
        raise OrderError("is not a JSON object")
    end = "valid_until" if kind == SETPOINT else "until"
    texts = {"reason", "owner", "run_id", "since"}
    unknown = set(document) - texts - {end} - ({"power_kw"} if kind == SETPOINT else set())
    if unknown:
        raise OrderError(f"has unknown keys: {', '.join(sorted(unknown))}")
    for name in sorted(texts):
        # Nobody has to say why for a set-point; a run id is missing where an operator acts by hand.
        optional = name == "run_id" or (name == "reason" and kind == SETPOINT)
        if not isinstance(document.get(name, "" if optional else None), str):
            raise OrderError(f"{name} is missing or not text")
    until = document.get(end)
    if until is None and kind != SAFE_MODE:
        raise OrderError(f"{end} is missing")
    power_kw = document.get("power_kw")
    if kind == SETPOINT and (
        isinstance(power_kw, bool) or not isinstance(power_kw, int | float) or not math.isfinite(power_kw)
    ):
        raise OrderError("power_kw is missing or not a number")
    return Order(
        kind=kind,
        reason=document.get("reason", ""),
        owner=document["owner"],
        run_id=document.get("run_id", ""),
        since=parse_time(document["since"]),
        until=None if until is None else parse_time(until),
        power_kw=None if power_kw is None else float(power_kw),
    )


def path_of(kind: str, directory: Path = DIRECTORY) -> Path:
    """Return the file of one kind of order."""
    return directory / f"{kind}.json"


def _content(path: Path) -> bytes | None:
    """Return what is in an order's file, None when it is certainly absent. Raises OrderError or OSError."""
    try:
        # lstat, so that a dangling link counts as present.
        path.lstat()
    except FileNotFoundError:
        return None
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        # Withdrawn a moment ago, unless it is a link to nowhere.
        if path.is_symlink():
            raise
        return None
    if len(content) > MAX_BYTES:
        raise OrderError("is too large for an order")
    return content


def read_order(kind: str, directory: Path = DIRECTORY) -> OrderState:
    """Return the present order. Never raises: whatever cannot be read is a problem, not an absence."""
    path = path_of(kind, directory)
    try:
        content = _content(path)
        return OrderState() if content is None else OrderState(parse_order(kind, json.loads(content)))
    except OSError as error:
        return OrderState(problem=f"{path}: {error.strerror}")
    except OrderError as error:
        return OrderState(problem=f"{path}: {error}")
    except (ValueError, RecursionError):
        return OrderState(problem=f"{path}: is not JSON")


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Put a JSON file in place atomically and durably, readable by everybody. Raises OSError."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_atomically(path, json.dumps(document, indent=2) + "\n", mode=0o644)


def merged_order(order: Order, before: OrderState) -> tuple[bool, Order]:
    """Return whether an order changes what stands, and what stands then; a hold keeps its beginning."""
    standing = before.order
    if standing is None:
        return True, order
    if order.asks_the_same(standing):
        return False, standing
    since = order.since if order.kind == SETPOINT else min(order.since, standing.since)
    return True, Order(
        order.kind, order.reason, order.owner, order.run_id, since, order.until, order.power_kw
    )


def give_order(order: Order, directory: Path = DIRECTORY) -> OrderChange:
    """Put an order in force; one that asks the same as the standing one is no change. Raises OrderError."""
    before = read_order(order.kind, directory)
    changed, standing = merged_order(order, before)
    if changed:
        # What is written must be what the controller will accept.
        parse_order(order.kind, standing.as_dict())
        try:
            write_document(path_of(order.kind, directory), standing.as_dict())
        except OSError as error:
            raise OrderError(
                f"{path_of(order.kind, directory)}: cannot be written: {error.strerror}"
            ) from error
    after = read_order(order.kind, directory)
    if after.order != standing:
        raise OrderError(
            after.problem or f"{path_of(order.kind, directory)}: somebody else changed it meanwhile"
        )
    return OrderChange(changed, before, after)


def withdraw_order(kind: str, directory: Path = DIRECTORY) -> OrderChange:
    """Remove an order, also one that nobody understands. Raises OrderError when it still stands."""
    before = read_order(kind, directory)
    path = path_of(kind, directory)
    try:
        path.unlink()
        sync_directory(directory)
    except FileNotFoundError:
        return OrderChange(False, before, OrderState())
    except OSError as error:
        raise OrderError(f"{path}: cannot be removed: {error.strerror}") from error
    return OrderChange(True, before, read_order(kind, directory))
