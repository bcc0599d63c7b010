"""Every job by its name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from stationkeeper.jobs.interface import JobError, Work

#: What each job does. Its work is `stationkeeper.jobs.work.<name>`, imported when it runs: some need
#: libraries that the others do without.
JOBS: Mapping[str, str] = {
    "anomaly_detection": "Record what is unlike the day before as anomalies",
    "archive": "Archive whole days before retention drops them",
    "audit_copies": "Check the copies of the audit trail, record by record",
    "cache_refresh": "Bring the last 24 hours into the hot tier",
    "freshness": "Ask how old the newest row of every device is",
    "gap_sweep": "Refresh the hourly coverage of the retention window and bring the gap ledger up to date",
    "gap_watch": "Record in the gap ledger what is new, and earlier gaps that closed",
    "validate": "Copy new rows that cannot be true to the quarantine",
}


def find(name: str) -> Work:
    """Return the work of a job. Raises JobError when there is no such job."""
    if name not in JOBS:
        raise JobError(f"there is no job {name!r}; jobs are {', '.join(JOBS)}")
    work: Work = importlib.import_module(f"stationkeeper.jobs.work.{name}").work
    return work
