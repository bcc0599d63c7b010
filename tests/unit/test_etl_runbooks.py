"""The runbooks etl_check and etl_retry with a real database and a real job that hangs; systemd is a stub."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from database_logins import database_logins
from jobs_database import create_job_tables, sessions, start_hanging
from local_project import LocalProject
from postgres_cluster import PASSWORD
from telemetry_database import ROOT, add_device, add_rows

from stationkeeper.database.connection import connect
from stationkeeper.jobs.interface import JobSettings

SCHEDULE = [
    {"name": "gap_watch", "calendar": "*-*-* *:03/15:00 UTC", "interval_s": 900, "limit_s": 60},
    {"name": "validate", "calendar": "*-*-* *:23:00 UTC", "interval_s": 3600, "limit_s": 60},
]
# What the runbooks and Ansible's own module ask of systemctl. Somebody has stopped the timer of `validate`.
SYSTEMCTL = """#!/bin/sh
test "$1" = --no-block && shift
echo "$@" >> {log}
case "$*" in
  is-active*) echo active; echo inactive; exit 3 ;;
  *--value*) cat {pid} ;;
  show*) printf 'LoadState=loaded\\nActiveState=inactive\\n' ;;
  is-enabled*) echo static ;;
  stop*) kill -9 "$(cat {pid})"; echo 0 > {pid} ;;
  start*) {python} -m stationkeeper.cli job run gap_watch --config {config} > {log}.run 2>&1 & ;;
esac
"""


def project_of(path: Path, settings: dict[str, Any]) -> LocalProject:
    """Return a project whose hub is this machine, with a systemctl of its own."""
    variables = database_logins({key: settings[key] for key in ("hosts", "port", "name")}, PASSWORD)
    project = LocalProject(path, variables, {"hubs": {"hub": {"telemetry_jobs_schedule": SCHEDULE}}})
    config = path / "jobs.json"
    config.write_text(
        json.dumps(
            {
                "system": "flux",
                "database": {**settings, "user": "flux_jobs"},
                "archive_directory": str(path),
                "metrics_directory": str(path),
                "jobs": SCHEDULE,
            }
        )
    )
    config.chmod(0o640)
    program = path / "bin" / "systemctl"
    program.parent.mkdir()
    places = {"log": path / "asked", "pid": path / "main.pid", "config": config, "python": sys.executable}
    program.write_text(SYSTEMCTL.format(**places))
    program.chmod(0o755)
    project.environment["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    project.replace("etl_retry", "/opt/stationkeeper/venv/bin/python", sys.executable)
    project.replace(
        "etl_retry", 'name: "{{ _job }}"\n', f'name: "{{{{ _job }}}}"\n            config: {config}\n'
    )
    return project


def test_a_stuck_job_is_seen_ended_and_run_again(postgres_settings: dict[str, Any], tmp_path: Path) -> None:
    connection = create_job_tables(postgres_settings)
    connection.autocommit = True
    now = datetime.now(UTC)
    device = add_device(connection, "WLCE-BESS-01", cadence_s=60, active_from=now - timedelta(hours=1))
    add_rows(connection, device, [now - timedelta(minutes=step) for step in range(60)])
    project = project_of(tmp_path, postgres_settings)
    jobs = JobSettings("flux", {**postgres_settings, "user": "flux_jobs"}, tmp_path, tmp_path)

    def runs() -> list[tuple[str, str]]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT status, coalesce(error, '') FROM flux.mg_etl_job ORDER BY id")
            return list(cursor.fetchall())

    with (
        start_hanging(jobs) as worker,
        closing(connect({**postgres_settings, "user": "flux_jobs"})) as innocent,
        connection.cursor() as cursor,
    ):
        (tmp_path / "main.pid").write_text(str(worker.pid))
        # An hour ago, and the heartbeat of a process that does nothing any more.
        cursor.execute(
            "UPDATE flux.mg_etl_job SET started_at = now() - interval '1 hour',"
            " heartbeat_at = now() - interval '1 hour'"
        )
        assert project.run("etl_check") != 0
        assert "gap_watch: run 1 is stuck on" in project.output
        assert "validate: has never run, and was not due yet" in project.output
        assert "job-validate.timer does not wait for its next time" in project.output

        assert project.run("etl_retry", "--check", job="gap_watch", target="hub") == 0, project.output[-3000:]
        assert "run 1 would be stopped; gap_watch would be started" in project.output
        assert runs() == [("running", "")]
        assert worker.poll() is None
        assert "start " not in (tmp_path / "asked").read_text()

        done = project.run("etl_retry", job="gap_watch", target="hub", reason="it hangs, ticket 7")
        assert done == 0, project.output[-3000:]
        assert worker.wait(timeout=100) == -9
        with innocent.cursor() as other:
            other.execute("SELECT 1")
    assert "run 1 stopped; run 2 completed, 5" in project.output
    (stopped, completed) = runs()
    assert stopped[0] == "stopped"
    assert stopped[1].startswith("it hangs, ticket 7, run ")
    assert completed == ("completed", "")
    assert sessions(connection) == 0


def test_the_runbooks_name_units_as_the_role_does() -> None:
    """Nothing else ties the name in the runbooks to the units."""
    from stationkeeper.jobs.units import PREFIX

    for name in (
        "playbooks/etl_check.yml",
        "playbooks/etl_retry.yml",
        "roles/telemetry_jobs/tasks/verify.yml",
    ):
        assert PREFIX in (ROOT / name).read_text()
