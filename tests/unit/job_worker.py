"""A job in a process of its own that hangs in the database: ``job_worker.py SETTINGS NAME [HEARTBEAT_S]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from stationkeeper.database.connection import connect
from stationkeeper.jobs import run
from stationkeeper.jobs.interface import JobResult, JobSettings


def hang(settings: JobSettings) -> JobResult:
    with connect(settings.database).cursor() as cursor:
        print("working", flush=True)
        cursor.execute("SELECT pg_sleep(600)")
    return JobResult(0)


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    if len(sys.argv) > 3:
        run.HEARTBEAT_S = float(sys.argv[3])
    directory = Path(sys.argv[1]).parent
    where = JobSettings("flux", given, directory, directory)
    done = run.run_job(where, sys.argv[2], hang, unit=f"stationkeeper-job-{sys.argv[2]}.service")
    print(done, flush=True)
    sys.exit(not done.completed)
