"""The whole retention window: hourly coverage refreshed, and the ledger made to agree with it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from stationkeeper.jobs.interface import JobResult, JobSettings, Sample
from stationkeeper.telemetry.check import Question, check
from stationkeeper.telemetry.coverage import refresh
from stationkeeper.telemetry.source import connected


def work(settings: JobSettings) -> JobResult:
    """Look at the last ``days`` days (90). Records are the rows that are there. Raises TelemetryError."""
    end = datetime.now(UTC)
    start = end - timedelta(days=float(settings.options.get("days", 90)))
    question = Question(
        start=start, end=end, schema=settings.schema, weekly=settings.weekly, by_hours=True, record=True
    )
    with connected(settings.database) as connection:
        refreshed = refresh(connection, start, end, schema=settings.schema)
        answer = check(connection, question)
    report = answer.report
    assert answer.recorded is not None
    metrics = [
        Sample(
            "stationkeeper_coverage_ratio",
            "Rows there of the rows that the cadence asks for, over the retention window",
            min(1.0, one.present / one.expected),
            {"device": one.device.name, "site": one.device.site},
        )
        for one in report.devices
        if one.expected
    ]
    evidence = {
        "from": start.isoformat(),
        "settled_to": report.settled_to.isoformat(),
        "hours_refreshed": refreshed.hours,
        "gaps": report.gaps,
        "missing": report.missing,
        "ledger": answer.recorded.as_dict(),
    }
    return JobResult(sum(one.present for one in report.devices), evidence, metrics)
