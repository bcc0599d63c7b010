"""The dashboards: stable JSON, unique ids, a grid without overlap, and queries that really run."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from debian_tools import tool
from test_prometheus_rules import exposed_metrics

from stationkeeper.dashboards import Query, files, queries
from stationkeeper.dashboards.command import run
from stationkeeper.dashboards.queries import substitute_promql, substitute_sql
from stationkeeper.dashboards.rules import alert_rules
from stationkeeper.database.statements import split

REPOSITORY = Path(__file__).resolve().parents[2]
GRAFANA = REPOSITORY / "roles" / "grafana"
UNITS = {
    *("kwatt", "kwatth", "volt", "hertz", "celsius", "percent", "percentunit", "s", "bytes", "cps", "short"),
    *("bool_on_off", "bool_yes_no"),
}
DASHBOARDS: list[dict[str, Any]] = [
    json.loads(content)
    for path, content in files().items()
    if path.startswith("/var/lib/grafana/dashboards/")
]
PANELS = [
    pytest.param(panel, id=f"{board['title']}: {panel['title']}")
    for board in DASHBOARDS
    for panel in board["panels"]
]
SOURCES = {"prometheus": "prometheus", "flux-database": "grafana-postgresql-datasource"}

# The telemetry tables as docs/architecture.md has them.
TABLES = """
CREATE SCHEMA flux;
CREATE SCHEMA ops;
CREATE TABLE flux.mg_device_registry (id uuid PRIMARY KEY, name text UNIQUE, type text, site text,
  profile text, cadence interval, active_from timestamptz, active_to timestamptz,
  metadata jsonb NOT NULL DEFAULT '{}');
CREATE TABLE flux.mg_maintenance (site text, started_at timestamptz, planned_until timestamptz,
  ended_at timestamptz);
CREATE TABLE flux.mg_bess_readings (time timestamptz, device_id uuid, boot_id uuid, seq bigint,
  heartbeat bigint, power_kw float8, setpoint_kw float8, soe_percent float8,
  voltage_v float8, frequency_hz float8,
  temperature_c float8, status int, alarms bigint, time_quality text, PRIMARY KEY (device_id, time));
CREATE TABLE flux.mg_meter_readings (time timestamptz, device_id uuid, boot_id uuid, seq bigint,
  heartbeat bigint, power_kw float8, voltage_v float8, frequency_hz float8, energy_import_kwh float8,
  energy_export_kwh float8, time_quality text, PRIMARY KEY (device_id, time));
CREATE TABLE flux.mg_meter_readings_5m_intermediate (bucket timestamptz, device_id uuid, samples int,
  power_kw_avg float8, power_kw_min float8, power_kw_max float8, energy_import_kwh float8,
  energy_export_kwh float8, PRIMARY KEY (device_id, bucket));
"""
# One battery that reports every minute, and a second one that never has.
ROWS = """
INSERT INTO flux.mg_device_registry (id, name, type, site, cadence, active_from)
  SELECT id::uuid, site || '-BESS-01', 'bess', site, '1 minute', now() - interval '1 day'
  FROM (VALUES ('00000000-0000-0000-0000-000000000001', 'WLCE'),
               ('00000000-0000-0000-0000-000000000002', 'HMCE')) AS device (id, site);
INSERT INTO flux.mg_bess_readings (time, device_id, boot_id, seq, power_kw)
  SELECT now() - m * interval '1 minute', '00000000-0000-0000-0000-000000000001',
         '00000000-0000-0000-0000-00000000000b', 200 - m, 40
  FROM generate_series(0, 120) AS m WHERE m NOT BETWEEN 30 AND 41;
INSERT INTO flux.mg_coverage_state SELECT id, now() - interval '2 minutes' FROM flux.mg_device_registry;
INSERT INTO flux.mg_gap_ledger (device_id, span, expected, state, reason, recovered_rows, lease_owner,
                                lease_until)
  SELECT '00000000-0000-0000-0000-000000000001',
         tstzrange(now() - first * interval '1 minute', now() - last * interval '1 minute', '()'),
         expected, state, reason, recovered, 'a worker', now()
  FROM (VALUES (42, 36, 5, 'open', NULL, 0), (36, 33, 2, 'unrecoverable', 'buffer was full', 0),
               (33, 29, 3, 'claimed', NULL, 0), (50, 42, 9, 'partial', 'rest below', 4))
    AS gap (first, last, expected, state, reason, recovered);
INSERT INTO flux.mg_backfill_batch (id, device_id, span, source, rows_in, rows_new, hash)
  SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000002',
         tstzrange(now() - interval '50 minutes', now() - interval '40 minutes'), 'archive', 9, 7, '';
INSERT INTO flux.mg_coverage_hourly (device_id, hour, rows, first_time, last_time, widest)
  SELECT '00000000-0000-0000-0000-000000000001', hour, 30, hour, hour, '0'
  FROM generate_series(date_bin('1 hour', now() - interval '1 hour', timestamptz '2000-01-01 00:00:00+00'),
                       now(), interval '1 hour') AS hour;
"""
# Runs of which three are drawn: not one that only reads, not a preview, not an end.
_ANNA = {"who": {"person": "anna"}, "mode": "real", "reason": None}
_EDGE = {"playbook": "playbooks/edge_safe_mode.yml", "runbook": {"area": "edge", "risk": "change"}}
_STORM = {"reason": "storm", "extra_vars": {"target": "wlce"}}
RUNS: list[tuple[str, dict[str, Any]]] = [
    ("START", _ANNA | _EDGE | _STORM),
    ("END", _ANNA | _EDGE),
    ("START", _ANNA | _EDGE | {"mode": "check"}),
    (
        "START",
        _ANNA | {"playbook": "playbooks/check_health.yml", "runbook": {"area": "check", "risk": "read"}},
    ),
    (
        "START",
        _ANNA | {"playbook": "playbooks/incident_open.yml", "runbook": {"area": "incident", "risk": "read"}},
    ),
    ("START", _ANNA | {"playbook": "playbooks/site.yml", "runbook": {}}),
]


@pytest.fixture(scope="module")
def database(postgres_cluster: Any) -> psycopg2.extensions.connection:
    """A database with a little telemetry, which the session may only read."""
    settings = postgres_cluster.create_database()
    connection = psycopg2.connect(
        host=settings["hosts"][0],
        port=settings["port"],
        dbname=settings["name"],
        user=settings["user"],
        password=settings["password"],
    )
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("SET timezone = 'UTC'")
    cursor.execute(TABLES)
    for migration in ("0003_ops_audit", "0007_gap_ledger"):
        for statement in split((REPOSITORY / f"migrations/flux/{migration}.sql").read_text()):
            if not statement.text.startswith("GRANT"):
                cursor.execute(statement.text)
    cursor.execute(ROWS)
    for number, (event, data) in enumerate(RUNS, start=1):
        text = json.dumps({"node": "n", "run_id": f"run-{number}", "event": event, "data": data})
        cursor.execute(
            "INSERT INTO ops.audit (chain, seq, at, hash, record)"
            " VALUES ('c', %s, now() - make_interval(mins => 10 - %s), repeat('0', 64), %s)",
            (number, number, text),
        )
    cursor.execute("SET default_transaction_read_only = on")
    return connection


def of_kind(kind: str) -> list[Query]:
    return [query for query in queries() if query.kind == kind]


def test_the_same_code_gives_the_same_bytes() -> None:
    assert files() == files()


def test_dashboards_have_different_uids_that_name_their_files() -> None:
    uids = [board["uid"] for board in DASHBOARDS]
    assert len(set(uids)) == len(uids) == 4
    assert {f"/var/lib/grafana/dashboards/{uid}.json" for uid in uids} < set(files())


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board["title"])
def test_panels_have_different_ids_and_titles_and_do_not_overlap(board: dict[str, Any]) -> None:
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, f"{one} and {other} overlap"
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_has_a_unit_a_source_and_a_query(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for source in [panel["datasource"], *(target["datasource"] for target in panel["targets"])]:
        assert SOURCES[source["uid"]] == source["type"]


def test_the_data_sources_are_those_that_the_role_provides() -> None:
    template = (GRAFANA / "templates" / "datasources" / "stationkeeper.yml.j2").read_text()
    provided = dict(
        zip(re.findall(r"uid: (\S+)", template), re.findall(r"\n    type: (\S+)", template), strict=True)
    )
    assert provided == SOURCES
    assert "$__file{/etc/grafana/secrets/database_password}" in template


def test_every_query_of_every_panel_is_offered_for_running() -> None:
    offered = {(query.dashboard, query.panel, query.ref_id) for query in queries()}
    shown = {
        (board["uid"], panel["title"], target["refId"])
        for board in DASHBOARDS
        for panel in board["panels"]
        for target in panel["targets"]
    }
    assert shown == {key for key in offered if key[0] not in {"alert rules", "all"}}
    assert len(offered) == len(list(queries()))


def test_promtool_accepts_every_promql_expression(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel_{number}", "expr": query.expression}
        for number, query in enumerate(of_kind("promql"))
    ]
    assert rules
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    checked = subprocess.run(
        [tool("promtool"), "check", "rules", "--lint=none", file], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_every_metric_is_one_that_somebody_exposes() -> None:
    """A misspelt metric gives an empty panel, which no syntax check sees."""
    known = exposed_metrics()
    for query in of_kind("promql"):
        used = set(re.findall(r"stationkeeper_\w+", query.expression))
        assert used <= known, f"{query.dashboard}, {query.panel}: unknown metric {used - known}"


@pytest.mark.parametrize("query", of_kind("sql"), ids=lambda query: f"{query.dashboard}: {query.panel}")
def test_every_sql_statement_runs(query: Query, database: psycopg2.extensions.connection) -> None:
    cursor = database.cursor()
    cursor.execute(query.expression)
    assert cursor.description
    cursor.fetchall()


def answers(database: psycopg2.extensions.connection, panel: str) -> list[tuple[Any, ...]]:
    (query,) = (query for query in of_kind("sql") if query.panel == panel)
    cursor = database.cursor()
    cursor.execute(query.expression)
    return cursor.fetchall()


def test_a_device_without_rows_is_seen(database: psycopg2.extensions.connection) -> None:
    freshness = answers(database, "Newest row of each device")
    assert [row[1] for row in freshness] == ["HMCE-BESS-01", "WLCE-BESS-01"]
    assert freshness[0][5] is None
    assert answers(database, "Devices without a recent row") == [(1,)]
    ages = {row[1]: row[2] for row in answers(database, "NoRecentRows")}
    assert ages["HMCE-BESS-01"] > 300 > ages["WLCE-BESS-01"]


def test_coverage_shows_the_hole_and_nothing_else(database: psycopg2.extensions.connection) -> None:
    cover = answers(database, "Rows stored, of those promised")
    good = {time: value for time, device, value in cover if device == "WLCE-BESS-01"}
    silent = {value for _, device, value in cover if device == "HMCE-BESS-01"}
    assert silent == {0}
    # Twelve minutes are missing: one or two buckets are empty, the two at the edges are partly filled.
    assert sum(1 for value in good.values() if value == 0) in {1, 2}
    assert sum(100 - value for value in good.values()) == pytest.approx(12 * 20)
    assert len(good) in {10, 11}


def test_rows_missing_within_a_run_are_counted(database: psycopg2.extensions.connection) -> None:
    (run_,) = answers(database, "Runs of each controller")
    assert run_[1] == "WLCE-BESS-01"
    assert run_[-1] == 12


def test_the_ledger_shows_what_is_open_explained_and_recovered(
    database: psycopg2.extensions.connection,
) -> None:
    assert answers(database, "Open gaps") == [(2,)]
    assert answers(database, "Rows open") == [(5 + 3,)]
    assert answers(database, "Rows explained") == [(2,)]
    assert answers(database, "Rows recovered") == [(7,)]
    assert answers(database, "Rows in quarantine") == [(0,)]
    devices = {row[1]: row for row in answers(database, "Gaps of each device")}
    assert devices["WLCE-BESS-01"][2:4] == (2, 8)
    assert devices["WLCE-BESS-01"][5:8] == (2, 0, "buffer was full")
    assert devices["HMCE-BESS-01"][2:4] == (0, 0)
    # The worst state wins: an open gap hides the explained one beside it.
    picture = answers(database, "Coverage of each device")
    worst = {name: max(value for _, device, value in picture if device == name) for name in devices}
    assert worst == {"WLCE-BESS-01": 3, "HMCE-BESS-01": 1}
    hours = answers(database, "Rows stored, of those promised, by site")
    # 30 rows of the 60 of the hour before this one.
    assert next(value for _, site, value in hours if site == "WLCE") == 50
    assert {value for _, site, value in hours if site == "HMCE"} == {0}


def test_changes_and_incidents_are_drawn_over_every_dashboard(
    database: psycopg2.extensions.connection,
) -> None:
    assert [row[1:] for row in answers(database, "Changes and incidents")] == [
        ("anna ran edge_safe_mode wlce (storm)", "edge"),
        ("anna ran incident_open", "incident"),
        ("anna ran site", "site"),
    ]
    for board in DASHBOARDS:
        (annotation,) = board["annotations"]["list"]
        assert annotation["datasource"]["uid"] == "flux-database"
        assert "ops.audit" in annotation["target"]["rawSql"]


def test_an_unknown_variable_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown variable or macro \$device"):
        substitute_promql('up{device="$device"}', ["WLCE"])
    with pytest.raises(ValueError, match=r"unknown variable or macro \$__unixEpochFilter"):
        substitute_sql("SELECT 1 WHERE $__unixEpochFilter(t)", ["WLCE"])


def test_a_quote_in_a_site_stays_data() -> None:
    assert substitute_sql("SELECT 1 WHERE s IN (${site:sqlstring})", ["O'Hara"]).endswith("('O''Hara')")


def test_alert_rules_fire_without_data_and_lead_to_runbooks() -> None:
    provisioned = json.loads(files()["/etc/grafana/provisioning/alerting/stationkeeper.json"])
    rules = [rule for group in provisioned["groups"] for rule in group["rules"]]
    assert len(rules) == len(alert_rules()) > 0
    assert len({rule["uid"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["noDataState"] == rule["execErrState"] == "Alerting"
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert (REPOSITORY / "playbooks" / f"{rule['annotations']['runbook']}.yml").is_file()
        # Grafana expands $NAME in these files, so a single one would vanish.
        assert not re.search(r"(?<!\$)\$(?!\$)", json.dumps(rule))


def test_the_command_writes_files_to_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["write", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {Path(path).name for path in files()}
    assert run(["files"]) == 0
    assert json.loads(capsys.readouterr().out) == files()
    assert run(["queries", "--sites", "XYZ"]) == 0
    assert "XYZ" in capsys.readouterr().out
