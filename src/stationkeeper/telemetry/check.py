"""One check of telemetry as it was asked for: gaps, what is written of them, rows that cannot be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stationkeeper.controller.windows import Window as WeeklyWindow
from stationkeeper.telemetry import ledger
from stationkeeper.telemetry.coverage import find_gaps_by_hours
from stationkeeper.telemetry.gaps import DEFAULT_K, DEFAULT_SETTLE_S, find_gaps
from stationkeeper.telemetry.incremental import DEFAULT_LATENESS_S, find_new_gaps
from stationkeeper.telemetry.quarantine import quarantine
from stationkeeper.telemetry.report import Report
from stationkeeper.telemetry.validation import DEFAULT_STALE_ROWS, Finding, validate

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)


@dataclass(frozen=True)
class Question:
    """What to look at and what to write. Without ``start`` and ``end``: what is new since the last record."""

    start: datetime | None = None
    end: datetime | None = None
    sites: Sequence[str] | None = None
    k: float = DEFAULT_K
    settle_s: float = DEFAULT_SETTLE_S
    lateness_s: float = DEFAULT_LATENESS_S
    schema: str = "flux"
    weekly: Mapping[str, Sequence[WeeklyWindow]] = field(default_factory=dict)
    by_hours: bool = False
    kinds: Sequence[str] = ()
    stale_rows: int = DEFAULT_STALE_ROWS
    record: bool = False
    quarantine: bool = False

    @property
    def writes(self) -> bool:
        """Whether anything is written."""
        return self.record or self.quarantine


@dataclass(frozen=True)
class Answer:
    """What was found; what was written, or would be: None where it was not asked for."""

    report: Report
    findings: Sequence[Finding] = ()
    recorded: ledger.Recorded | None = None
    quarantined: int | None = None

    @property
    def changed(self) -> bool:
        """Whether the ledger or the quarantine changed, or would."""
        return bool(self.quarantined) or (self.recorded is not None and self.recorded.changed)

    @property
    def ok(self) -> bool:
        """Whether nothing is missing without an explanation, every site answered, and rows can be trusted."""
        return not (self.report.gaps or self.report.idle_sites or self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return the report's plain data, and beside it what else was asked for."""
        data = self.report.as_dict() | {"findings": [finding.as_dict() for finding in self.findings]}
        if self.recorded is not None:
            data["recorded"] = self.recorded.as_dict()
        if self.quarantined is not None:
            data["quarantined"] = self.quarantined
        return data

    def lines(self) -> list[str]:
        """Return what is not in the table of gaps, for a terminal."""
        lines = [
            f"{one.device}: {one.kind}, {one.start:%Y-%m-%d %H:%M:%S} to {one.end:%Y-%m-%d %H:%M:%S}, "
            f"{one.rows} row{'s' if one.rows > 1 else ''}: {one.reason}"
            for one in self.findings
        ]
        if self.report.rechecked:
            lines.append(f"{len(self.report.rechecked)} earlier gaps looked at again")
        return lines + self.written()

    def written(self) -> list[str]:
        """Return what was written, or would be."""
        lines = []
        if self.recorded is not None:
            counts = ", ".join(f"{number} {name}" for name, number in self.recorded.as_dict().items())
            lines.append(f"Ledger: {counts}")
        if self.quarantined is not None:
            lines.append(f"Quarantine: {self.quarantined} new rows")
        return lines


def check(connection: Connection, question: Question, *, dry_run: bool = False) -> Answer:
    """Look, and write what was asked for; with ``dry_run`` only say what would be written.

    Raises TelemetryError.
    """
    common: dict[str, Any] = {
        "sites": question.sites,
        "k": question.k,
        "settle_s": question.settle_s,
        "schema": question.schema,
        "weekly": question.weekly,
    }
    if question.start is None or question.end is None:
        report = find_new_gaps(connection, lateness_s=question.lateness_s, **common)
    else:
        look = find_gaps_by_hours if question.by_hours else find_gaps
        report = look(connection, question.start, question.end, **common)
    findings: list[Finding] = []
    if question.kinds and report.start < report.settled_to:
        findings = validate(
            connection,
            report.start,
            report.settled_to,
            kinds=question.kinds,
            sites=question.sites,
            stale_rows=question.stale_rows,
            settle_s=question.settle_s,
            schema=question.schema,
        )
    recorded = quarantined = None
    if question.record:
        recorded = (
            ledger.foresee(connection, report, schema=question.schema)
            if dry_run
            else ledger.record(connection, report, datetime.now(UTC), schema=question.schema)
        )
    if question.quarantine:
        quarantined = quarantine(connection, findings, schema=question.schema, check=dry_run)
    return Answer(report, findings, recorded, quarantined)
