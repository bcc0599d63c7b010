"""The copies of the control nodes' audit chains, checked record by record where no control node works."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from stationkeeper.audit.copies import check
from stationkeeper.audit.keys import KeyFileError, KeyRing
from stationkeeper.audit.verify import Report, StoredRow
from stationkeeper.jobs.interface import JobError, JobResult, JobSettings, Sample
from stationkeeper.telemetry.source import reading, snapshot

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

# For each statement: a batch of rows, or the list of chains, which an index gives.
_TIMEOUT_S = 60.0
_BATCH = 2000
_TOLD = 50
_CHAINS = "SELECT DISTINCT chain FROM ops.audit ORDER BY chain"
_ROWS = "SELECT seq, hash, record FROM ops.audit WHERE chain = %s ORDER BY seq"


def work(settings: JobSettings) -> JobResult:
    """Check every copy. Records are the copies. Raises JobError, TelemetryError.

    Of the option ``trusted_keys``, public keys as text, one must have signed each record; without it, the one
    that the chain itself names.
    """
    try:
        trusted = KeyRing.of(settings.options.get("trusted_keys", ()))
    except KeyFileError as error:
        raise JobError(f"option trusted_keys: {error}") from None
    with reading(settings.database) as connection:
        reports = _check_all(connection, trusted)
    metrics = [sample for report in reports for sample in samples(report)]
    problems = [f"{report.chain}: {one.message}" for report in reports for one in report.findings]
    evidence = {"chains": {one.chain: one.records for one in reports}, "problems": problems[:_TOLD]}
    return JobResult(sum(one.records for one in reports), evidence, metrics)


def samples(report: Report) -> list[Sample]:
    """Return the figures of one chain."""
    newest = datetime.fromisoformat(report.last_at).timestamp() if report.last_at else 0.0
    told = (
        ("records", "Copies of a control node's audit records in the database", report.records),
        (
            "problems",
            "Copies that are missing, changed or not signed as they should be",
            len(report.findings),
        ),
        ("newest_timestamp_seconds", "When the newest record with a copy was written", newest),
    )
    return [
        Sample(f"stationkeeper_audit_copies_{name}", text, value, {"chain": report.chain})
        for name, text, value in told
    ]


def _check_all(connection: Connection, trusted: KeyRing) -> list[Report]:
    with snapshot(connection, timeout_s=_TIMEOUT_S) as cursor:
        cursor.execute(_CHAINS)
        reports = []
        for (chain,) in cursor.fetchall():
            # On the server, so that years of records need no more memory than a batch.
            with connection.cursor(name="audit_copies") as rows:
                rows.itersize = _BATCH
                rows.execute(_ROWS, (chain,))
                reports.append(check(chain, (StoredRow(*row) for row in rows), trusted))
    return reports
