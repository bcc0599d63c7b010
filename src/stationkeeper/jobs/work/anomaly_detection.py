"""What is unlike the day before, and what the other checks found, as anomalies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from stationkeeper.jobs.interface import JobResult, JobSettings, Sample
from stationkeeper.telemetry.anomalies import SEVERITIES
from stationkeeper.telemetry.anomalies_detection import detect
from stationkeeper.telemetry.anomalies_records import find, record, resolved_until
from stationkeeper.telemetry.source import connected


def work(settings: JobSettings) -> JobResult:
    """Look at the last ``minutes`` minutes (90). Records are anomalies that are new or grew.

    The job runs every hour; what lies in two windows is one anomaly. Raises TelemetryError.
    """
    end = datetime.now(UTC)
    start = end - timedelta(minutes=float(settings.options.get("minutes", 90)))
    with connected(settings.database) as connection:
        resolved = resolved_until(connection, schema=settings.schema)
        look = detect(connection, start, end, resolved, schema=settings.schema)
        new, grown = record(connection, look.found, schema=settings.schema)
        waiting = find(connection, schema=settings.schema)
    sites = sorted({one.site for one in waiting})
    metrics = [
        Sample(
            "stationkeeper_open_anomalies",
            "Anomalies that nobody has resolved",
            sum((one.site, one.severity) == (site, severity) for one in waiting),
            {"site": site, "severity": severity},
        )
        for site in sites
        for severity in SEVERITIES
    ]
    evidence = {
        "from": start.isoformat(),
        "new": new,
        "grown": grown,
        "open": len(waiting),
        "metrics_judged": look.judged,
        "metrics_too_new": look.too_new,
    }
    return JobResult(new + grown, evidence, metrics)
