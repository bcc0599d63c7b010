"""Whole days of telemetry, archived on this host before retention drops them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from stationkeeper.jobs.interface import JobError, JobResult, JobSettings, Sample
from stationkeeper.telemetry.archived import Archived, archive_days, days_to_archive
from stationkeeper.telemetry.source import connected


def work(settings: JobSettings) -> JobResult:
    """Archive the ``days`` days (7) that ended ``older_than_days`` (30) ago, and what retention waits for.

    Records are rows of the days looked at. Raises TelemetryError, and JobError with all that is wrong after
    everything else was archived.
    """
    last = (datetime.now(UTC) - timedelta(days=int(settings.options.get("older_than_days", 30)) + 1)).date()
    days = int(settings.options.get("days", 7))
    done: dict[str, Archived] = {}
    with connected(settings.database) as connection:
        wanted = days_to_archive(connection, last=last, days=days, schema=settings.schema)
        for site, those in wanted.sites.items():
            done[site] = archive_days(
                connection, settings.archive_directory, site, those, schema=settings.schema
            )
    problems = [problem for one in done.values() for problem in one.problems]
    if wanted.of_unknown_devices:
        problems.append(
            f"{', '.join(map(str, wanted.of_unknown_devices))} have rows of devices that the registry does "
            "not know: they are in no archive, and retention keeps them until the devices are registered"
        )
    if problems:
        raise JobError("; ".join(problems))
    metrics = [
        Sample(
            "stationkeeper_archived_rows",
            "Rows of the days looked at",
            sum(one.rows.values()),
            {"site": site},
        )
        for site, one in done.items()
    ]
    evidence = {
        "until": str(last),
        "written": {site: one.written for site, one in done.items()},
        "recorded": {site: one.recorded for site, one in done.items()},
        "verified": {site: one.verified for site, one in done.items()},
    }
    return JobResult(sum(sum(one.rows.values()) for one in done.values()), evidence, metrics)
