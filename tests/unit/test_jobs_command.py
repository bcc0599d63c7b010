"""``stationkeeper job``: the jobs with the rights that they have, and the file that configures them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from jobs_database import create_job_tables
from telemetry_database import add_device, add_rows

from stationkeeper.cli import main
from stationkeeper.jobs import catalogue
from stationkeeper.jobs.config import read
from stationkeeper.jobs.interface import JobError

CADENCE = timedelta(seconds=10)


def configure(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "jobs.json"
    document = {
        "system": "flux",
        "database": {"hosts": ["/nowhere"], "name": "flux", "user": "flux_jobs"},
        "archive_directory": str(tmp_path),
        "metrics_directory": str(tmp_path),
    }
    path.write_text(json.dumps(document | changes))
    path.chmod(0o640)
    return path


def test_the_jobs_do_their_work_with_their_rights(
    postgres_settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = create_job_tables(postgres_settings)
    now = datetime.now(UTC).replace(microsecond=0)
    begin = now - timedelta(hours=3)
    device = add_device(connection, "WLCE-BESS-01", cadence_s=10, active_from=begin)
    times = [begin + CADENCE * step for step in range(1080)]
    # Ten minutes are missing, and one row says what no battery can.
    add_rows(
        connection,
        device,
        [one for one in times if not timedelta(hours=1) < one - begin <= timedelta(hours=1, minutes=10)],
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE flux.mg_bess_readings SET soe_percent = 250 WHERE time = %s", (times[9],))
    config = configure(
        tmp_path,
        database={**postgres_settings, "user": "flux_jobs"},
        jobs=[
            {"name": name, "calendar": "hourly UTC", "interval_s": 3600, "limit_s": 60, "options": options}
            for name, options in (("gap_sweep", {"days": 1}), ("archive", {}))
        ],
    )
    for name in ("freshness", "gap_watch", "gap_sweep", "validate"):
        assert main(["job", "run", name, "--config", str(config)]) == 0, capsys.readouterr()
    capsys.readouterr()
    assert main(["job", "status", "--config", str(config), "--json"]) == 0
    swept, archive = json.loads(capsys.readouterr().out)
    assert (swept["state"], swept["newest"]["state"]) == ("ok", "completed")
    assert (archive["newest"], archive["message"]) == (None, "archive: has never run, and was not due yet")
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT job_name, status, unit FROM flux.mg_etl_job ORDER BY job_name")
        assert cursor.fetchall() == [
            (name, "completed", None) for name in ("freshness", "gap_sweep", "gap_watch", "validate")
        ]
        cursor.execute("SELECT expected FROM flux.mg_gap_ledger WHERE state = 'open'")
        assert cursor.fetchall() == [(60,)]
        cursor.execute("SELECT kind FROM flux.mg_quarantine")
        assert cursor.fetchall() == [("impossible",)]
        cursor.execute("SELECT count(*) >= 2 FROM flux.mg_coverage_hourly")
        assert cursor.fetchall() == [(True,)]
    figures = "".join(path.read_text() for path in tmp_path.glob("*.prom"))
    assert 'stationkeeper_open_gaps{site="WLCE"} 1.0' in figures
    assert 'stationkeeper_missing_rows{site="WLCE"} 60.0' in figures
    assert 'stationkeeper_newest_row_age_seconds{device="WLCE-BESS-01",site="WLCE"}' in figures
    assert 'stationkeeper_coverage_ratio{device="WLCE-BESS-01",site="WLCE"} 0.94' in figures
    assert 'stationkeeper_untrusted_rows{kind="impossible"} 1.0' in figures


def test_a_failed_job_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["job", "run", "gap_watch", "--config", str(configure(tmp_path))]) == 1
    assert "failed after" in capsys.readouterr().err
    assert main(["job", "ended", "gap_watch", "--config", str(configure(tmp_path))]) == 2


def test_a_directory_that_cannot_be_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(tmp_path, metrics_directory=str(tmp_path / "missing"))
    assert main(["job", "run", "gap_watch", "--config", str(config)]) == 1
    assert "the figures cannot be written" in capsys.readouterr().err


def test_every_job_is_listed_and_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["job", "list"]) == 0
    told = capsys.readouterr().out
    for name in catalogue.JOBS:
        assert name in told
        assert callable(catalogue.find(name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"system": ""}, "system: String should have at least 1 character"),
        ({"redis": {"host": "hub", "user": "flux"}}, "redis.password: Field required"),
        ({"sites": []}, "sites: Extra inputs are not permitted"),
        ({"database": "password=hidden"}, "database: Input should be an object"),
    ],
)
def test_a_wrong_file_is_told_without_its_values(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError) as caught:
        read(configure(tmp_path, **changes))
    assert message in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_job_that_is_not_scheduled_is_no_job_to_be_stopped(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="'gap_watch' is not scheduled on this host; declared are none"):
        read(configure(tmp_path)).schedule("gap_watch")


def test_a_file_that_everybody_may_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = configure(tmp_path)
    path.chmod(0o644)
    assert main(["job", "run", "gap_watch", "--config", str(path)]) == 2
    assert f"chmod 640 {path}" in capsys.readouterr().err
    assert main(["job", "run", "gap_wach", "--config", str(path)]) == 2
    assert "there is no job 'gap_wach'; jobs are " in capsys.readouterr().err
