"""The systemd units of jobs: systemd itself accepts them, and they follow what is declared."""

from __future__ import annotations

import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from module_runner import run_module

from stationkeeper.jobs import catalogue
from stationkeeper.jobs.units import Job, Layout, converge, texts

ROOT = Path(__file__).resolve().parents[2]
HUBS = yaml.safe_load((ROOT / "inventories/flux/group_vars/hubs/main.yml").read_text())
SCHEDULE = HUBS["telemetry_jobs_schedule"]
JOBS = [Job(job["name"], job["calendar"], job["limit_s"]) for job in SCHEDULE]
LAYOUT = Layout("/bin/true", "/etc/stationkeeper/jobs.json", "daemon", ["/var/lib/prometheus/node-exporter"])

# Keeps what is active beside itself, and links as systemctl does.
SYSTEMCTL = """#!/bin/sh
cd "$(dirname "$0")"
echo "$@" >> asked
verb=$1; shift
case $verb in
  is-active) for unit; do test -e "active/$unit" && echo active || echo inactive; done; exit 3 ;;
  enable) for unit; do test "$unit" = --now || {{ touch "active/$unit"; ln -s x "{wants}/$unit"; }}; done ;;
  disable) for unit; do rm -f "active/$unit" "{wants}/$unit"; done ;;
esac
"""


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=os.environ | {"TZ": "UTC"},
    )


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for units, with a systemctl that remembers."""
    units, program = tmp_path / "units", tmp_path / "bin" / "systemctl"
    wants = units / "timers.target.wants"
    wants.mkdir(parents=True)
    (program.parent / "active").mkdir(parents=True)
    program.write_text(SYSTEMCTL.format(wants=wants))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return units


def asked(directory: Path) -> str:
    return (directory.parent / "bin" / "asked").read_text()


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for name, text in texts(JOBS, LAYOUT).items():
        (tmp_path / name).write_text(text)
    checked = analyze("verify", "--man=no", *map(str, sorted(tmp_path.iterdir())))
    told = [line for line in checked.stderr.splitlines() if "stationkeeper-job" in line]
    assert (checked.returncode, told) == (0, [])
    unit = tmp_path / "stationkeeper-job-archive.service"
    judged = analyze("security", "--offline=true", "--no-pager", str(unit))
    assert float(judged.stdout.rsplit("stationkeeper-job-archive.service:", 1)[1].split()[0]) < 2.5


def test_every_job_is_scheduled_in_utc_as_often_as_it_says() -> None:
    assert {job["name"] for job in SCHEDULE} == set(catalogue.JOBS)
    for job in SCHEDULE:
        shown = analyze("calendar", "--iterations=40", "--base-time=2026-03-01 00:00:00 UTC", job["calendar"])
        assert shown.returncode == 0, shown.stderr
        assert job["calendar"].endswith(" UTC")
        # The times of a day in seconds, and from the last one of it to the first one of the next.
        moments = re.findall(r"(\d+)-(\d+)-(\d+) (\d+):(\d+):(\d+) UTC", shown.stdout)
        seconds = [
            int(day) * 86400 + int(hour) * 3600 + int(minute) * 60 + int(second)
            for _, month, day, hour, minute, second in moments
            if month == "03"
        ]
        apart = [later - earlier for earlier, later in pairwise(seconds) if later > earlier]
        assert max(apart) == job["interval_s"], job["name"]
        assert job["limit_s"] < job["interval_s"]


def test_jobs_do_not_begin_at_the_same_moment() -> None:
    begins = [re.sub(r"^\S+ ", "", job["calendar"]) for job in SCHEDULE]
    assert len(set(begins)) == len(begins)


def test_units_follow_what_is_declared_and_nothing_else(directory: Path) -> None:
    (directory / "other.service").write_text("x")
    planned = converge(JOBS, LAYOUT, dry_run=True, directory=directory)
    assert planned.changed
    assert [path.name for path in directory.glob("*.*") if path.is_file()] == ["other.service"]
    done = converge(JOBS, LAYOUT, dry_run=False, directory=directory)
    assert done == planned
    assert len(done.started) == len(JOBS)
    assert not converge(JOBS, LAYOUT, dry_run=False, directory=directory).changed

    moved = [Job(JOBS[0].name, "*-*-* 03:00:00 UTC", 60)]
    done = converge(moved, LAYOUT, dry_run=False, directory=directory)
    timer = f"stationkeeper-job-{JOBS[0].name}.timer"
    assert done.started == ()
    assert f"restart {timer}\n" in asked(directory)
    assert sorted(path.name for path in directory.glob("stationkeeper-job-*")) == [
        timer.replace("timer", "service"),
        timer,
    ]
    # One that somebody stopped is started again.
    (directory.parent / "bin" / "active" / timer).unlink()
    assert converge(moved, LAYOUT, dry_run=True, directory=directory).started == (timer,)


def test_a_job_that_systemd_would_misread_is_refused(directory: Path, tmp_path: Path) -> None:
    jobs = [{"name": "watch", "calendar": "daily\nUser=root", "limit_s": 5}]
    done = run_module(tmp_path, "job_timers", {"jobs": jobs, "user": "daemon"})
    assert done["failed"]
    assert "no usable name, calendar or limit; nothing was changed" in done["msg"]
    assert not (directory.parent / "bin" / "asked").exists()
