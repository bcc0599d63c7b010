"""What a recovery would do: every span with the rows that each source has for it. Nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from stationkeeper.telemetry.backfill.entries import Job, read_jobs
from stationkeeper.telemetry.backfill.sources import Source
from stationkeeper.telemetry.backfill.tables import read_tables
from stationkeeper.telemetry.ledger import Entry
from stationkeeper.telemetry.report import Report
from stationkeeper.telemetry.source import LEDGER, REGISTRY, rfc3339, snapshot

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

_OPEN = """
SELECT id, device_id::text, lower(span), upper(span), expected, attempts FROM {ledger}
WHERE (state = 'open' OR (state = 'claimed' AND lease_until < now()))
  AND (%(sites)s::text[] IS NULL OR device_id IN (SELECT id FROM {registry} WHERE site = ANY (%(sites)s)))
ORDER BY upper(span) DESC, id
"""


@dataclass(frozen=True)
class Planned:
    """One span. ``rows`` has the number of rows of each source that was asked, in their order."""

    job: Job
    rows: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data with times as RFC 3339 text."""
        gap = self.job.gap
        return {
            "device": self.job.device.name,
            "site": self.job.device.site,
            "from": rfc3339(gap.start),
            "to": rfc3339(gap.end),
            "expected": gap.expected,
            "rows": self.rows,
            "refused": self.job.refusal,
        }


def plan(
    connection: Connection,
    sources: Sequence[Source],
    *,
    sites: Sequence[str] | None = None,
    report: Report | None = None,
    schema: str = "flux",
    timeout_s: float = 300.0,
) -> list[Planned]:
    """Return what the ledger has open, or with ``report`` the gaps found in it, newest first.

    Raises TelemetryError when a source cannot answer or does not fit.
    """
    with snapshot(connection, timeout_s=timeout_s) as cursor:
        tables = read_tables(cursor, schema)
        if report is None:
            query = sql.SQL(_OPEN).format(
                ledger=sql.Identifier(schema, LEDGER), registry=sql.Identifier(schema, REGISTRY)
            )
            cursor.execute(query, {"sites": list(sites) if sites else None})
            entries = [
                Entry(number, device, start.astimezone(UTC), end.astimezone(UTC), expected, attempts)
                for number, device, start, end, expected, attempts in cursor.fetchall()
            ]
        else:
            entries = [
                Entry(0, coverage.device.id, gap.start, gap.end, gap.missing, 0)
                for coverage in report.devices
                for gap in coverage.gaps
            ]
            entries.sort(key=lambda entry: entry.end, reverse=True)
        jobs = read_jobs(cursor, schema, entries)
    for source in sources:
        source.check(tables)
    return [
        Planned(
            job,
            {
                source.name: source.count(job.device, job.span.start, job.span.end) if job.span else 0
                for source in sources
            },
        )
        for job in jobs
    ]


def describe(planned: Sequence[Planned]) -> list[str]:
    """Return lines for a terminal."""
    lines = []
    for one in planned:
        gap = one.job.gap
        rows = ", ".join(f"{name} {count}" for name, count in one.rows.items())
        lines.append(
            f"{one.job.device.name}  {rfc3339(gap.start)} to {rfc3339(gap.end)}  "
            f"about {gap.expected} rows missing; {rows}" + (f"; {one.job.refusal}" if one.job.refusal else "")
        )
    best = sum(max(one.rows.values(), default=0) for one in planned)
    lines.append(
        f"{len(planned)} gaps, about {sum(p.job.gap.expected for p in planned)} rows, {best} to be had"
    )
    return lines
