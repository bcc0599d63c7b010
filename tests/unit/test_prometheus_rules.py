"""The alert rules: each has its labels, a runbook that exists, and tests that pass under promtool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from debian_tools import tool

from stationkeeper.audit.verify import Report
from stationkeeper.backup import gauges
from stationkeeper.backup.content import Content, Repository
from stationkeeper.backup.files import figures
from stationkeeper.backup.look import Look
from stationkeeper.controller.metrics import Metrics
from stationkeeper.controller.modes import SAFE_MODE_REASONS
from stationkeeper.database.cluster import guard
from stationkeeper.database.cluster.node import absent
from stationkeeper.drills import report
from stationkeeper.drills.report import Drill
from stationkeeper.jobs import metrics
from stationkeeper.jobs.interface import JobResult
from stationkeeper.jobs.work import audit_copies
from stationkeeper.patching import updates

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = REPOSITORY / "roles" / "prometheus" / "files" / "rules"
#: What postgres_exporter is given besides its own figures.
QUERIES = REPOSITORY / "roles/prometheus_exporter/files/postgres_queries.yml"
RULE_FILES = sorted(RULES.glob("*.yml"))
TEST_FILES = sorted((RULES / "tests").glob("*_test.yml"))
SEVERITIES = {"critical", "warning", "info", "none"}


def alerts() -> list[dict[str, Any]]:
    """Return every alerting rule of every file."""
    groups = [group for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def promtool(*arguments: str | Path, cwd: Path = RULES) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("promtool"), *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def test_every_file_of_rules_is_loaded() -> None:
    """A rule that no inventory loads passes all its own tests, and never fires."""
    role = RULES.parents[1]
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text())["prometheus_rules"]
    # Where Patroni runs the database; the role adds it by itself.
    assert "['patroni.yml']" in (role / "vars" / "main.yml").read_text()
    assert sorted([*defaults, "patroni.yml"]) == sorted(path.name for path in RULE_FILES)


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.name)
def test_promtool_accepts_the_rules(path: Path) -> None:
    checked = promtool("check", "rules", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.criterion("MT-5", "MT-6")
@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.name)
def test_promtool_passes_the_rules_tests(path: Path) -> None:
    tested = promtool("test", "rules", path.name, cwd=path.parent)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_says_how_bad_whose_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in SEVERITIES
    assert rule["labels"]["owner"] in {"operations", "platform"}
    assert rule["annotations"]["summary"]
    runbook = REPOSITORY / "playbooks" / f"{rule['annotations']['runbook']}.yml"
    assert runbook.is_file(), f"{rule['alert']} leads to a runbook that does not exist: {runbook.name}"


def database_metrics() -> str:
    """Return what the guard of a primary and that of a standby write."""
    slot = {"name": "db2", "type": "physical", "retained_bytes": 0, "wal_status": "reserved"}
    replica = {"name": "db2", "state": "streaming", "lag_bytes": 0}
    primary = absent() | {"role": "primary", "slots": [slot], "replicas": [replica]}
    primary["certificate_expires_at"] = "2036-01-01T00:00:00+00:00"
    looks = (primary, absent() | {"role": "standby"})
    return "".join(guard.metrics(look, ["db2"], waits=False) for look in looks)


def exposed_metrics() -> set[str]:
    """Return the series of a controller, a job, a drill, the database, and of what the inventory expects."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        metrics.write_start(directory, "watch")
        metrics.write_run(directory, "watch", 1.0, completed=True)
        metrics.write_success(directory, "watch", JobResult(1))
        figures.write_run(directory, "files", succeeded=True, ended=0, duration_s=0)
        figures.write_space(directory, "files", 0, 0)
        figures.write_success(directory, "files", began=0, verified=0, size=0)
        gauges.write_verification(directory, 1, at=0, problems=0)
        content = Content((Repository(1, 0, "ok"),), (), (), busy=False)
        gauges.write_watch(directory, Look(content, {1: []}, {1: 0.0}, {}), at=0)
        jobs = "".join(path.read_text() for path in directory.iterdir())
    jobs += database_metrics()
    drill = Drill("drill", "", "", "", 0, "", "", 0, 0, 0, 0)
    copies = metrics.text(audit_copies.samples(Report(chain="c"))).decode()
    drills = metrics.text([*report.samples(drill), *report.success(drill)]).decode()
    expected = (RULES.parents[1] / "templates" / "expected.yml.j2").read_text()
    expected += (REPOSITORY / "roles/file_backup/tasks/started.yml").read_text()
    cluster = (REPOSITORY / "roles/etcd/tasks/figures.yml").read_text()
    cluster += (REPOSITORY / "playbooks/security_drift.yml").read_text()
    cluster += updates.figures(0, 0, reboot=False, complete_at=0)
    queries = yaml.safe_load(QUERIES.read_text())
    tables = {f"{key}_{name}" for key, one in queries.items() for column in one["metrics"] for name in column}
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    return (
        {
            metric.name + ending
            for metric in Metrics("WLCE").registry.collect()
            for ending in endings.get(metric.type, ("",))
        }
        | tables
        | set(re.findall(r"# TYPE (\w+)", cluster))
        | set(
            re.findall(r"^# TYPE (\w+)", jobs + copies + drills, re.M)
            + re.findall(r"(?:record|_expected): (\w+)", expected)
        )
    )


def test_every_metric_is_one_that_somebody_exposes() -> None:
    """A misspelt metric never fires, and no syntax check sees it."""
    used = {name for rule in alerts() for name in re.findall(r"stationkeeper_\w+", rule["expr"])}
    assert used <= exposed_metrics(), used - exposed_metrics()


def test_every_figure_of_patroni_and_etcd_is_one_that_they_gave() -> None:
    """The golden file is what the versions of Debian 13 answered in the lab."""
    answered = (REPOSITORY / "tests/golden/patroni_metrics.prom").read_text()
    given = set(re.findall(r"^((?:patroni|etcd)_\w+)", answered, re.M))
    used = {name for rule in alerts() for name in re.findall(r"\b(?:patroni|etcd)_\w+", rule["expr"])}
    assert used
    assert used <= given, used - given


def test_every_alert_is_tested_firing_and_quiet() -> None:
    cases = [
        case
        for path in TEST_FILES
        for group in yaml.safe_load(path.read_text())["tests"]
        for case in group["alert_rule_test"]
    ]
    firing = {case["alertname"] for case in cases if case["exp_alerts"]}
    quiet = {case["alertname"] for case in cases if not case["exp_alerts"]}
    # The watchdog fires always: that is its purpose, and it has no quiet case.
    for name in {rule["alert"] for rule in alerts()}:
        assert name in firing, f"no test in which {name} fires"
        assert name in quiet or name == "Watchdog", f"no test in which {name} stays quiet"


PLANNED = "unless on (site) site:planned_maintenance:bool"
# What planned work at a station causes. Everything else is told at any time.
HELD_BACK = {
    "BufferGrowing",
    "ControllerDown",
    "HostDown",
    "NoRecentTelemetry",
    "SafeModeUnordered",
    "ZeroNotVerified",
}


@pytest.mark.criterion("MT-5")
def test_only_what_planned_work_causes_is_held_back() -> None:
    assert {rule["alert"] for rule in alerts() if PLANNED in rule["expr"]} == HELD_BACK
    latched = next(rule["expr"] for rule in alerts() if rule["alert"] == "ZeroNotVerified").split(" or ")[1]
    assert "emergency_stop_latched" in latched
    assert PLANNED not in latched


def test_the_reasons_for_safe_mode_are_those_of_the_controller() -> None:
    """A reason that does not exist would be held back from nobody."""
    (rule,) = [rule for rule in alerts() if rule["alert"] == "SafeModeUnordered"]
    named = {reason for text in re.findall(r'reason!?~"([^"]+)"', rule["expr"]) for reason in text.split("|")}
    assert named <= set(SAFE_MODE_REASONS), named - set(SAFE_MODE_REASONS)


@pytest.mark.criterion("MT-5", "MT-6")
@pytest.mark.parametrize(
    ("words", "instead", "alert"),
    [
        ("_soe_percent < 10", "_soe_percent < 1", "BatterySOELow"),
        (PLANNED, "", "NoRecentTelemetry"),
        # Maintenance that is never over, and one that a station takes along when its power is cut.
        ("site:maintenance_until:timestamp_seconds <= time()", "vector(0)", "PlannedMaintenance"),
        ("site:maintenance_until:timestamp_seconds > time()", "vector(0)", "ControllerDown"),
        (" or stationkeeper_idle == 1", "", "MaintenanceOverdue"),
    ],
)
def test_a_broken_rule_is_noticed(tmp_path: Path, words: str, instead: str, alert: str) -> None:
    """The tests can fail: with one condition changed, promtool refuses."""
    (tmp_path / "tests").mkdir()
    rules = (RULES / "flux.yml").read_text()
    assert words in rules
    (tmp_path / "flux.yml").write_text(rules.replace(words, instead))
    (tmp_path / "tests" / "flux_test.yml").write_text((RULES / "tests" / "flux_test.yml").read_text())
    tested = promtool("test", "rules", "flux_test.yml", cwd=tmp_path / "tests")
    assert tested.returncode != 0
    assert alert in tested.stdout + tested.stderr
