"""The hub's scheduled jobs and the tiers they keep, seen by systemd, Prometheus, SQL and redis-cli."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from stationkeeper.database.connection import connect
from system import LabSystem

HUB = "fluxhub"
UNIT = "stationkeeper-job-{}.service"


def schedule(flux: LabSystem) -> dict[str, dict[str, Any]]:
    declared = yaml.safe_load((flux.inventory / "group_vars" / "hubs" / "main.yml").read_text())
    return {job["name"]: job for job in declared["telemetry_jobs_schedule"]}


def redis(flux: LabSystem, *command: str) -> str:
    """Ask Redis by its own client, on the hub, as its administrator."""
    environment = f"REDISCLI_AUTH={flux.secrets['secret_redis_admin_password']}"
    return flux.on_host(HUB, "env", environment, "redis-cli", "--user", "admin", *command).stdout.strip()


def newest(flux: LabSystem, job: str) -> tuple[int, str]:
    ((number, status),) = flux.query(
        "SELECT id, status FROM flux.mg_etl_job WHERE job_name = %s ORDER BY id DESC LIMIT 1", (job,)
    )
    return int(number), str(status)


@contextmanager
def quiet_timers(flux: LabSystem) -> Iterator[None]:
    """No job begins by itself meanwhile."""
    timers = [UNIT.format(job).replace(".service", ".timer") for job in schedule(flux)]
    flux.on_host(HUB, "systemctl", "stop", *timers)
    try:
        yield
    finally:
        flux.on_host(HUB, "systemctl", "start", *timers)


def test_every_job_completes_and_prometheus_knows(flux: LabSystem) -> None:
    jobs = schedule(flux)
    for job in jobs:
        done = flux.on_host(HUB, "systemctl", "start", UNIT.format(job), check=False)
        assert done.returncode == 0, flux.on_host(
            HUB, "journalctl", "-n", "30", "-u", UNIT.format(job)
        ).stdout
        assert newest(flux, job)[1] == "completed"
    flux.wait(
        "figures of every job",
        lambda: (
            {one["metric"]["job_name"] for one in flux.measured("stationkeeper_job_last_run_success == 1")}
            == set(jobs)
        ),
        timeout_s=90,
    )
    # What test_15 killed stays below its success rate for a day.
    play = flux.playbook("etl_check", {"fail_on": "critical"})
    assert play.code == 0, play.output[-5000:]
    assert all(job in play.output for job in jobs)


def test_the_hot_tier_holds_what_the_database_holds(flux: LabSystem) -> None:
    play = flux.playbook("cache_refresh", {"target": "all", "reason": "ring 4"})
    assert play.code == 0, play.output[-5000:]
    names = flux.query("SELECT id, name, type FROM flux.mg_device_registry WHERE active_to IS NULL")
    assert len(names) >= 6
    for device, name, kind in names:
        table = "mg_meter_readings" if "meter" in kind else "mg_bess_readings"
        newest = int(
            redis(flux, "ZRANGE", f"flux:node:{name}:timeseries", "-1", "-1", "WITHSCORES").split()[-1]
        )
        ((rows,),) = flux.query(
            f"SELECT count(*) FROM flux.{table} WHERE device_id = %s AND time > now() - interval '24 hours'"
            " AND time < to_timestamp(%s)",
            (device, (newest + 1) / 1000),
        )
        assert int(redis(flux, "ZCARD", f"flux:node:{name}:timeseries")) == rows, name
    checked = flux.playbook("cache_check")
    assert checked.code == 0, checked.output[-5000:]


def test_lost_and_foreign_keys(flux: LabSystem) -> None:
    with quiet_timers(flux):
        victim = redis(flux, "--scan", "--pattern", "flux:node:*:timeseries").splitlines()[0]
        redis(flux, "DEL", victim)
        redis(flux, "SET", "flux:node:GHOST-01:latest", "x")
        redis(flux, "SET", "other:node:GHOST-01:latest", "kept")
        checked = flux.playbook("cache_check", {"fail_on": "degraded"})
        assert checked.code != 0, "the lost series was not noticed"
        before = redis(flux, "DBSIZE")
        preview = flux.playbook("cache_refresh", {"target": "all"}, "--check", "--diff")
        assert preview.code == 0, preview.output[-5000:]
        assert redis(flux, "DBSIZE") == before
        play = flux.playbook("cache_refresh", {"target": "all", "reason": "a series is lost"})
        assert play.code == 0, play.output[-5000:]
        assert int(redis(flux, "ZCARD", victim)) > 0
        assert redis(flux, "EXISTS", "flux:node:GHOST-01:latest") == "0"
        assert redis(flux, "GET", "other:node:GHOST-01:latest") == "kept"
        redis(flux, "DEL", "other:node:GHOST-01:latest")


def test_exactly_the_stuck_run_is_ended_and_the_job_runs_again(flux: LabSystem) -> None:
    job = "gap_watch"
    blocker = connect(flux.database_settings("operator"), application_name="innocent")
    try:
        with quiet_timers(flux), blocker.cursor() as cursor:
            # The job waits for a lock of somebody else, for longer than its time.
            cursor.execute("LOCK TABLE flux.mg_coverage_state IN ACCESS EXCLUSIVE MODE")
            flux.on_host(HUB, "systemctl", "start", "--no-block", UNIT.format(job))
            flux.wait("a run", lambda: newest(flux, job)[1] == "running", timeout_s=60)
            stuck = newest(flux, job)[0]
            process = flux.on_host(HUB, "systemctl", "show", "-P", "MainPID", UNIT.format(job)).stdout.strip()
            # Stopped where it stands, its heartbeat stands still; and three minutes go by at once.
            flux.on_host(HUB, "kill", "-STOP", process)
            past = f"UPDATE flux.mg_etl_job SET heartbeat_at = now() - interval '3 min' WHERE id = {stuck}"
            flux.on_host("fluxdb", "runuser", "-u", "postgres", "--", "psql", "-qd", "flux", "-c", past)
            checked = flux.playbook("etl_check")
            assert checked.code != 0
            assert "is stuck" in " ".join(checked.output.split())
            preview = flux.playbook("etl_retry", {"target": HUB, "job": job}, "--check")
            assert preview.code == 0, preview.output[-5000:]
            assert newest(flux, job) == (stuck, "running")
            blocker.rollback()
            play = flux.playbook("etl_retry", {"target": HUB, "job": job, "reason": "ring 4"})
            assert play.code == 0, play.output[-5000:]
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,), "the innocent session was ended, too"
        assert newest(flux, job)[0] > stuck
        assert newest(flux, job)[1] == "completed"
        assert flux.query("SELECT status FROM flux.mg_etl_job WHERE id = %s", (stuck,)) == [("stopped",)]
        again = flux.playbook("etl_retry", {"target": HUB, "job": job, "reason": "ring 4"})
        assert again.code == 0, again.output[-5000:]
        assert again.changed == {}
    finally:
        blocker.close()


def test_the_rollup_is_tuned_by_the_inventory(flux: LabSystem) -> None:
    path = flux.inventory / "group_vars" / "databases" / "main.yml"
    before = path.read_text()
    refused = flux.playbook("telemetry_tune", {"target": "all", "reason": "ring 4", "interval_minutes": 10})
    assert refused.code != 0
    assert "interval_minutes: 10" in " ".join(refused.output.split())
    try:
        path.write_text(before.replace("interval_minutes: 5", "interval_minutes: 10"))
        play = flux.playbook("telemetry_tune", {"target": "all", "reason": "ring 4", "interval_minutes": 10})
        assert play.code == 0, play.output[-5000:]
        shown = flux.on_host(
            "fluxdb", "systemctl", "show", "-P", "TimersCalendar", "flux-rollup.timer"
        ).stdout
        assert "*:00/10:20" in shown
        again = flux.playbook("telemetry_tune", {"target": "all", "reason": "ring 4"})
        assert again.code == 0, again.output[-5000:]
        assert again.changed == {}
    finally:
        path.write_text(before)
        back = flux.playbook("telemetry_tune", {"target": "all", "reason": "ring 4 is over"})
    assert back.code == 0, back.output[-5000:]


def test_anomalies_are_listed_and_only_known_ones_resolved(flux: LabSystem) -> None:
    listed = flux.playbook("anomaly_list")
    assert listed.code == 0, listed.output[-5000:]
    wrong = {"target": "all", "ids": [999999], "kind": "fixed", "resolution": "ring 4", "reason": "ring 4"}
    refused = flux.playbook("anomaly_resolve", wrong)
    assert refused.code != 0
    assert "999999" in refused.output


# What grows by itself while the system is watched, and what a preview writes on purpose (decision 3).
GROWING = ("mg_bess_readings", "mg_meter_readings", "mg_meter_readings_5m_intermediate", "audit")
PREVIEWS: dict[str, dict[str, Any]] = {
    "anomaly_list": {},
    "anomaly_resolve": {"ids": [1], "kind": "fixed", "resolution": "x"},
    "cache_check": {"sample_s": 0},
    "cache_refresh": {"force": True},
    "database_migrate": {},
    "etl_check": {"fail_on": "critical"},
    "etl_retry": {"job": "validate", "again": True},
    "telemetry_archive": {"older_than_days": 0},
    "telemetry_export": {"window_hours": 1},
    "telemetry_freshness": {},
    "telemetry_gap_check": {"record": True, "fail_on_gap": False},
    "telemetry_gap_recover": {},
    "telemetry_resync": {"wait_s": 0},
    "telemetry_tune": {},
    "telemetry_validate": {"quarantine": True, "reason": "x"},
}


def fingerprint(flux: LabSystem) -> dict[str, Any]:
    """All that a preview must leave alone: tables, keys, and files of hub, database and control node."""
    tables = flux.query(
        "SELECT schemaname || '.' || relname FROM pg_stat_user_tables"
        " WHERE schemaname IN ('flux', 'ops') AND relname <> ALL (%s)",
        (list(GROWING),),
        "operator",
    )
    found: dict[str, Any] = {}
    for (table,) in sorted(tables):
        statement = f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} AS t"
        found[table] = flux.query(statement, (), "operator")
    keys = sorted(redis(flux, "--scan").splitlines())
    found["redis"] = {key: redis(flux, "--no-raw", "DUMP", key) for key in keys}
    for host in (HUB, "fluxdb"):
        listing = flux.on_host(
            host,
            "find",
            "/etc",
            "/var/lib/stationkeeper_jobs",
            "-type",
            "f",
            "-printf",
            "%p %s %T@\n",
            check=False,
        )
        found[host] = sorted(listing.stdout.splitlines())
    found["state"] = sorted(
        f"{path.relative_to(flux.state)} {path.stat().st_mtime_ns}"
        for path in flux.state.rglob("*")
        if path.is_file() and path.relative_to(flux.state).parts[0] not in {"audit", "lab"}
    )
    return found


def test_check_mode_of_every_runbook_of_the_telemetry_writes_nothing(flux: LabSystem) -> None:
    with quiet_timers(flux):
        before = fingerprint(flux)
        failed = [
            runbook
            for runbook, inputs in PREVIEWS.items()
            if flux.playbook(runbook, {"target": "all", **inputs}, "--check", "--diff").code
        ]
        after = fingerprint(flux)
    assert {part: after[part] for part in before} == before
    # There is no anomaly 1, no timer runs now, and perhaps there is no place to recover from.
    assert set(failed) <= {"anomaly_resolve", "etl_check", "telemetry_gap_recover"}, failed
