"""Scheduled jobs on the hub, run by its systemd: figures, a run that is killed, and the runbooks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from stationkeeper.database.connection import connect
from system import LabSystem

HUB = "fluxhub"
NEWEST = """
SELECT id, status, coalesce(error, ''), process_id, unit FROM flux.mg_etl_job
WHERE job_name = %s ORDER BY started_at DESC LIMIT 1
"""


def newest(flux: LabSystem, job: str) -> tuple[Any, ...]:
    """Return the newest run of a job, or one with the number 0."""
    return next(iter(flux.query(NEWEST, (job,))), (0, "none", "", 0, None))


@contextlib.contextmanager
def ledger_locked(flux: LabSystem) -> Iterator[None]:
    """Keep everybody from the gap ledger."""
    session = connect(flux.database_settings("operator"), application_name="test-lock")
    try:
        with session.cursor() as cursor:
            cursor.execute("LOCK TABLE flux.mg_gap_ledger IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        session.close()


def test_a_job_leaves_its_row_and_prometheus_sees_it(flux: LabSystem) -> None:
    before, *_ = newest(flux, "freshness")
    flux.on_host(HUB, "systemctl", "start", "stationkeeper-job-freshness.service")
    run, status, error, _, unit = newest(flux, "freshness")
    assert run > before
    assert (status, error, unit) == ("completed", "", "stationkeeper-job-freshness.service")
    served = flux.run("curl", "-fsS", f"http://{flux.addresses[HUB]}:9100/metrics").stdout
    assert 'stationkeeper_job_last_run_success{job_name="freshness"} 1' in served
    assert 'stationkeeper_newest_row_age_seconds{device="WLCE-BESS-01"' in served
    assert "node_textfile_scrape_error 0" in served


def test_a_killed_run_is_settled_by_its_unit_and_run_again(flux: LabSystem) -> None:
    job, unit = "gap_watch", "stationkeeper-job-gap_watch.service"
    before, *_ = newest(flux, job)
    with ledger_locked(flux):
        flux.on_host(HUB, "systemctl", "start", "--no-block", unit)
        flux.wait(
            "a run that waits for the lock", lambda: newest(flux, job)[:2] > (before, "r"), timeout_s=120
        )
        run, status, _, process, _ = newest(flux, job)
        assert status == "running"
        healthy = flux.playbook("etl_retry", {"target": HUB, "job": job, "reason": "test"})
        assert healthy.code != 0
        assert "is healthy" in healthy.output
        assert newest(flux, job)[:2] == (run, "running")
        flux.on_host(HUB, "kill", "-9", str(process))
        flux.wait("its row is settled", lambda: newest(flux, job)[1] == "failed", timeout_s=120)
    assert "its process was ended: signal" in newest(flux, job)[2]
    seen = flux.playbook("etl_check", {"window_hours": 1})
    assert seen.code != 0
    assert "gap_watch: " in seen.output

    planned = flux.playbook("etl_retry", {"target": HUB, "job": job}, "--check")
    assert (planned.code, newest(flux, job)[0]) == (0, run), planned.output
    done = flux.playbook("etl_retry", {"target": HUB, "job": job, "reason": "its process was killed"})
    assert done.code == 0, done.output
    again, status, *_ = newest(flux, job)
    assert (again > run, status) == (True, "completed")
    twice = flux.playbook("etl_retry", {"target": HUB, "job": job, "reason": "its process was killed"})
    assert twice.code == 0, twice.output
    assert "nothing to do" in twice.output
    assert HUB not in twice.changed
    assert newest(flux, job)[0] == again
