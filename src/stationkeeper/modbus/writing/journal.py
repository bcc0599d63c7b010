"""The audit of writes: an intent before the first one leaves, and one row for each write that has left."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from stationkeeper.audit import identity, spool
from stationkeeper.audit.chain import Chain, ChainError
from stationkeeper.audit.keys import KeyFileError
from stationkeeper.audit.paths import RUN_VARIABLE, AuditPaths
from stationkeeper.modbus.errors import ModbusError
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.modbus.reading import hexadecimal
from stationkeeper.modbus.writing.clock import Clock
from stationkeeper.modbus.writing.evidence import WriteResult, stamp
from stationkeeper.modbus.writing.request import Plan
from stationkeeper.modbus.writing.wear import WearLedger
from stationkeeper.runbooks.state import repository_root

INTENT, ROW = "WRITE_INTENT", "WRITE"


class Sink(Protocol):
    """Where audit rows go."""

    def append(self, event: str, data: Mapping[str, Any]) -> None:
        """Write one row to the disk. Raises `SinkError`."""
        ...

    def spool(self, event: str, data: Mapping[str, Any], at: datetime) -> None:
        """Keep a row for later where `append` failed. Raises `SinkError`."""
        ...


class SinkError(Exception):
    """A row could not be written; the message says why."""


class AuditSink:
    """The audit chain of this control node, and its spool."""

    def __init__(self, paths: AuditPaths | None = None, run_id: str | None = None) -> None:
        self._paths = paths or AuditPaths.default()
        self._chain = Chain(self._paths)
        self._run_id = run_id or os.environ.get(RUN_VARIABLE) or str(uuid.uuid4())

    def append(self, event: str, data: Mapping[str, Any]) -> None:
        """Append one row to the chain. Raises `SinkError`."""
        try:
            self._chain.append(event, self._run_id, data)
        except (OSError, ChainError, KeyFileError) as error:
            raise SinkError(str(error)) from None

    def spool(self, event: str, data: Mapping[str, Any], at: datetime) -> None:
        """Put a row where the next run finds it. Raises `SinkError`."""
        try:
            spool.write(self._paths, self._run_id, [{"event": event, "at": at, "data": dict(data)}])
        except (OSError, spool.SpoolError) as error:
            raise SinkError(str(error)) from None


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes and why."""

    endpoint: str
    unit: int
    reason: str = ""
    ticket: str = ""

    def describe(self) -> dict[str, Any]:
        """Return the part that all rows of a run share."""
        return {
            "who": identity.who(os.environ, {}),
            "host": identity.node(),
            **identity.commit(repository_root()),
            "reason": self.reason,
            "ticket": self.ticket,
            "endpoint": self.endpoint,
            "unit": self.unit,
        }


class AuditedGate:
    """Lets a write leave when it is noted: in the audit, and where memory wears out, in the ledger.

    Where the audit cannot be written, only writes towards zero leave, and their rows are spooled.
    `warnings` collects what the caller must be told.
    """

    def __init__(self, sink: Sink, author: Author, wear: WearLedger, clock: Clock) -> None:
        self._sink = sink
        self._author = author
        self._wear = wear
        self._clock = clock
        self._shared: dict[str, Any] = {}
        self._problem = ""
        self.warnings: list[str] = []

    def check(self, plan: Plan, *, towards_zero: bool) -> None:
        """Raise `ModbusError` when memory would wear out."""
        if not towards_zero:
            self._wear.check(plan, self._clock.utc())

    def before(self, plan: Plan, *, towards_zero: bool) -> None:
        """Note the intent. Raises `ModbusError` when that is not possible and the write is not safe."""
        self._shared = self._shared or self._author.describe()
        intent = self._shared | _what(plan) | {"words": hexadecimal(plan.words), "towards_zero": towards_zero}
        try:
            self._sink.append(INTENT, intent)
            self._problem = ""
        except SinkError as error:
            self._problem = str(error)
            if not towards_zero:
                raise ModbusError(
                    Outcome.BLOCKED_BY_INTERLOCK,
                    f"nothing was written: the audit cannot take the row ({error}), and without it only "
                    "writes towards zero leave; run `stationkeeper audit verify` and repair it",
                ) from None
        try:
            self._wear.note(plan.place, self._clock.utc())
        except ModbusError as error:
            if not towards_zero:
                raise
            self.warnings.append(error.message)

    def after(self, result: WriteResult) -> None:
        """Append the row of a write that has left; spool it when that fails."""
        at = self._clock.utc()
        row = self._shared | row_of(result, at)
        try:
            if self._problem:
                raise SinkError(self._problem)
            self._sink.append(ROW, row)
        except SinkError as error:
            try:
                self._sink.spool(ROW, row, at)
                self.warnings.append(f"audit: the row of {result.name} waits in the spool: {error}")
            except SinkError as lost:
                self.warnings.append(f"audit: the row of {result.name} is LOST: {error}; {lost}")


def row_of(result: WriteResult, at: datetime) -> dict[str, Any]:
    """Return the audit row of one write, without who and where."""
    return _what(result.plan) | {
        "at": stamp(at.astimezone(UTC)),
        "raw_before": hexadecimal(result.before.words) if result.before else None,
        "raw_sent": hexadecimal(result.words),
        "raw_after": hexadecimal(result.after.words) if result.after else None,
        "attempts": [attempt.as_dict() for attempt in result.attempts],
        "samples": [sample.as_dict() for sample in result.samples],
        "outcome": str(result.outcome),
        "message": result.message,
    }


def _what(plan: Plan) -> dict[str, Any]:
    place = plan.place
    return {
        "name": place.name,
        "table": str(place.table),
        "address": place.address,
        "value": str(plan.value),
        "value_unit": place.unit,
        "semantic": plan.request.semantic,
    }
