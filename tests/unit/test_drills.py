"""Drills: what a fault would do, what the writer's record tells, the report, the schedule."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from stationkeeper.drills import fault, probe, report, schedule
from stationkeeper.jobs.metrics import text


def test_no_loss_and_the_silence_after_the_fault() -> None:
    acknowledged = [(1, 10.0), (2, 10.1), (4, 13.1), (5, 13.2)]
    outcome = probe.judge(acknowledged, {1, 2, 4, 5}, fault_at=10.15, ended_at=13.25)
    assert outcome.lost == 0
    assert outcome.recovered
    assert outcome.rto_s == pytest.approx(2.95)
    assert outcome.longest_silence_s == pytest.approx(3.0)


def test_rows_that_were_acknowledged_and_are_gone_are_lost() -> None:
    acknowledged = [(1, 10.0), (2, 10.5), (3, 11.0), (6, 14.0)]
    outcome = probe.judge(acknowledged, {1, 6}, fault_at=11.2, ended_at=14.1)
    assert outcome.lost == 2
    assert outcome.rpo_s == pytest.approx(0.5)


def test_writes_that_never_come_back_are_told() -> None:
    outcome = probe.judge([(1, 10.0)], {1}, fault_at=10.1, ended_at=40.0)
    assert not outcome.recovered
    assert outcome.rto_s == pytest.approx(29.9)


def test_writes_that_break_off_again_are_told() -> None:
    outcome = probe.judge([(1, 10.0), (2, 11.0)], {1, 2}, fault_at=10.1, ended_at=40.0)
    assert not outcome.recovered


def drill(**changes: object) -> report.Drill:
    values: dict[str, object] = {
        "name": "drill_failover",
        "title": "The primary fails",
        "target": "fluxdb1",
        "run_id": "01",
        "started_at": 1000.0,
        "started": "1970-01-01T00:16:40+00:00",
        "fault": "killed",
        "rto_s": 7.0,
        "rpo_s": 0.0,
        "objective_rto_s": 10.0,
        "objective_rpo_s": 60.0,
    }
    return report.Drill(**(values | changes))  # type: ignore[arg-type]


def test_an_objective_that_was_missed_makes_the_drill_a_failed_one() -> None:
    assert drill().shortfalls == []
    missed = drill(rto_s=11.0, problems=["the standby did not come back"])
    assert len(missed.shortfalls) == 2
    assert "FAILED" in report.page(missed)
    assert "recovery took 11.0 s, the objective is 10 s" in report.page(missed)


def test_a_drill_is_judged_by_its_figures() -> None:
    entry = {"name": "drill_failover", "cadence_days": 92}

    def problem(lines: str, now: float) -> str:
        return str(schedule.states(lines.splitlines(), [entry], now)[0]["problem"])

    good = (text(report.samples(drill())) + text(report.success(drill()))).decode()
    assert problem(good, 2000.0) == ""
    assert "overdue" in problem(good, 93 * 86_400.0)
    bad = (text(report.samples(drill(rto_s=99.0))) + text(report.success(drill()))).decode()
    assert "no good one" in problem(bad, 2000.0)
    assert "never good" in problem("", 2000.0)


def test_files_moved_away_come_back_and_win_over_a_half_restored_copy(tmp_path: Path) -> None:
    there = tmp_path / "data" / "it's"
    there.mkdir(parents=True)
    (there / "whole").write_text("1")
    planned = fault.plan("drill_x", "files_away", {"path": str(there)})
    for command in planned.inject:
        subprocess.run(command, check=True)
    assert not there.exists()
    there.mkdir()
    (there / "half").write_text("2")
    for _ in range(2):
        subprocess.run(["sh", "-c", planned.heal[0]], check=True)
        assert (there / "whole").read_text() == "1"
    assert (tmp_path / "data" / "it's.drill_x-restored" / "half").exists()


def test_a_disk_is_filled_only_up_to_the_limit(tmp_path: Path) -> None:
    options = {"path": str(tmp_path), "leave_mb": 1, "largest_gb": 0}
    with pytest.raises(fault.FaultError, match="largest_gb"):
        fault.plan("drill_x", "disk_full", options)
    with pytest.raises(fault.FaultError, match="is no directory"):
        fault.plan("drill_x", "disk_full", options | {"path": str(tmp_path / "none")})


def test_what_cannot_be_moved_away_is_refused(tmp_path: Path) -> None:
    for path in ("relative", "/etc", str(tmp_path / "none"), "/dev/shm"):
        with pytest.raises(fault.FaultError):
            fault.plan("drill_x", "files_away", {"path": path})
    with pytest.raises(ValueError, match="does not appear to be"):
        fault.plan("drill_x", "network_split", {"addresses": ["; reboot"]})


def test_systemd_gets_the_healing_as_it_was_meant(tmp_path: Path) -> None:
    planned = fault.Fault("drill_x", "k", (), ('echo "$HOME 5%"',), "t")
    assert 'ExecStart=/bin/sh -c "echo \\"$$HOME 5%%\\""' in fault.service(planned)
    # What counts from the boot would be over at once.
    assert "OnActiveSec=600" in fault.timer(planned, 600)
    assert "OnBoot" not in fault.timer(planned, 600)
    assert "WantedBy=multi-user.target" in fault.service(planned)
