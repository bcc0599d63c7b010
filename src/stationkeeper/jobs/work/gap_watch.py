"""The newest hours into the ledger: what is missing since the last look, and earlier gaps that closed."""

from __future__ import annotations

from stationkeeper.jobs.interface import JobResult, JobSettings, Sample
from stationkeeper.telemetry.check import Question, check
from stationkeeper.telemetry.source import connected


def work(settings: JobSettings) -> JobResult:
    """Make the ledger agree with what is new. Records are the rows that were seen. Raises TelemetryError."""
    question = Question(schema=settings.schema, weekly=settings.weekly, record=True)
    with connected(settings.database) as connection:
        answer = check(connection, question)
    report = answer.report
    assert answer.recorded is not None
    gaps: dict[str, int] = {}
    missing: dict[str, int] = {}
    for one in (*report.devices, *report.rechecked):
        site = one.device.site
        gaps[site] = gaps.get(site, 0) + len(one.gaps)
        missing[site] = missing.get(site, 0) + one.missing
    metrics = [
        Sample("stationkeeper_open_gaps", "Gaps that nobody can explain", number, {"site": site})
        for site, number in sorted(gaps.items())
    ]
    metrics += [
        Sample("stationkeeper_missing_rows", "Estimated rows missing in open gaps", number, {"site": site})
        for site, number in sorted(missing.items())
    ]
    evidence = {"settled_to": report.settled_to.isoformat(), "ledger": answer.recorded.as_dict()}
    return JobResult(sum(one.present for one in report.devices), evidence, metrics)
