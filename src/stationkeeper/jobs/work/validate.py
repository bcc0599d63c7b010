"""Rows that cannot be true, from the newest hours, copied to the quarantine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from stationkeeper.jobs.interface import JobResult, JobSettings, Sample
from stationkeeper.telemetry.quarantine import quarantine
from stationkeeper.telemetry.source import connected
from stationkeeper.telemetry.validation import validate

KINDS = ("impossible", "future")


def work(settings: JobSettings) -> JobResult:
    """Look at the last ``hours`` hours (6). Records are rows new in the quarantine. Raises TelemetryError.

    Rows that come later than that are looked at by the runbook telemetry_validate.
    """
    end = datetime.now(UTC)
    start = end - timedelta(hours=float(settings.options.get("hours", 6)))
    with connected(settings.database) as connection:
        findings = validate(connection, start, end, kinds=KINDS, schema=settings.schema)
        new = quarantine(connection, findings, schema=settings.schema)
    found = {kind: sum(one.rows for one in findings if one.kind == kind) for kind in KINDS}
    metrics = [
        Sample(
            "stationkeeper_untrusted_rows", "Rows that cannot be true, of the window", rows, {"kind": kind}
        )
        for kind, rows in found.items()
    ]
    return JobResult(new, {"from": start.isoformat(), "found": found}, metrics)
