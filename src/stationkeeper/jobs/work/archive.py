"""Whole days of telemetry, archived on this host before retention drops them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from psycopg2 import sql

from stationkeeper.jobs.interface import JobError, JobResult, JobSettings, Sample
from stationkeeper.telemetry.archived import Archived, archive_days, days_to_archive
from stationkeeper.telemetry.source import REGISTRY, connected, snapshot


def work(settings: JobSettings) -> JobResult:
    """Archive the ``days`` days (7) that ended ``older_than_days`` (30) ago, and what was missed before.

    Records are rows of the days looked at. Raises TelemetryError, and JobError with all that is wrong after
    everything else was archived.
    """
    last = (datetime.now(UTC) - timedelta(days=int(settings.options.get("older_than_days", 30)) + 1)).date()
    days = int(settings.options.get("days", 7))
    done: dict[str, Archived] = {}
    with connected(settings.database) as connection:
        with snapshot(connection, timeout_s=60.0) as cursor:
            registry = sql.Identifier(settings.schema, REGISTRY)
            cursor.execute(sql.SQL("SELECT DISTINCT site FROM {} ORDER BY site").format(registry))
            sites = [str(row[0]) for row in cursor.fetchall()]
        for site in sites:
            wanted = days_to_archive(connection, site, last=last, days=days, schema=settings.schema)
            done[site] = archive_days(
                connection, settings.archive_directory, site, wanted, schema=settings.schema
            )
    if problems := [problem for one in done.values() for problem in one.problems]:
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
