"""Anomalies: what is found among usual values, kept once, and resolved, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from anomaly_world import END, START, AnomalyWorld, make_anomaly_world
from postgres_cluster import PostgresCluster

from stationkeeper.jobs.interface import JobSettings
from stationkeeper.jobs.work import anomaly_detection
from stationkeeper.telemetry.anomalies import METRICS, Found, Metric, Usual, describe, severity
from stationkeeper.telemetry.anomalies_detection import Look, detect
from stationkeeper.telemetry.anomalies_records import (
    Resolution,
    find,
    readings_around,
    record,
    resolve,
    resolved_until,
)
from stationkeeper.telemetry.source import TelemetryError, connected

FIXED = Resolution("fixed", "the inverter was restarted", "ops@control")


@pytest.fixture
def world(postgres_cluster: PostgresCluster) -> Iterator[AnomalyWorld]:
    yield from make_anomaly_world(postgres_cluster)


def look(world: AnomalyWorld, *, minutes: float = 0) -> Look:
    """Detect and record as the job does; the window may lie some minutes later."""
    with connected(world.settings | {"user": "flux_jobs"}) as connection:
        later = timedelta(minutes=minutes)
        done = detect(connection, START + later, END + later, resolved_until(connection))
        record(connection, done.found)
    return done


def listed(world: AnomalyWorld, **filters: Any) -> list[tuple[str, str, str, str]]:
    with connected(world.settings | {"user": "flux_reader"}) as connection:
        return [(one.device, one.metric, one.kind, one.severity) for one in find(connection, **filters)]


def settle(world: AnomalyWorld, ids: Sequence[int], resolution: Resolution = FIXED, **options: Any) -> Any:
    with connected(world.settings | {"user": "flux_operator"}) as connection:
        return resolve(connection, ids, resolution, **options)


def test_a_battery_at_work_raises_no_alarm_where_the_medians_own_deviation_would(world: AnomalyWorld) -> None:
    done = look(world)
    assert done.found == []
    assert (done.judged, done.too_new) == (20, 0)
    # Half an hour of charging lies in the window. By median and MAD each of its rows is an alarm.
    (alarms,) = world.on(
        "WITH day AS (SELECT * FROM flux.mg_bess_readings WHERE device_id = %s AND time < %s),"
        " middle AS (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY power_kw) AS m FROM day),"
        " spread AS ("
        " SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(power_kw - m)) AS mad FROM day, middle)"
        " SELECT count(*) FROM flux.mg_bess_readings, middle, spread"
        " WHERE device_id = %s AND time >= %s AND abs(power_kw - m) > 10 * 1.4826 * mad",
        world.ids["WLCE-BESS-01"],
        START,
        world.ids["WLCE-BESS-01"],
        START,
    )
    assert alarms == (30,)


def test_what_is_unlike_the_day_before_is_found_with_its_severity(world: AnomalyWorld) -> None:
    battery, meter = "WLCE-BESS-01", "WLCE-METER-01"
    world.spoil(battery, 5, 15, "power_kw = setpoint_kw + 20")  # does not follow its order
    world.spoil(battery, 70, 70, "voltage_v = 380")  # one spike
    world.spoil(battery, 30, 45, "temperature_c = 42")  # warm
    world.spoil(battery, 50, 50, "frequency_hz = 'NaN'")  # no number
    world.spoil(meter, 40, 90, "energy_import_kwh = energy_import_kwh - 1000")  # set back once
    world.spoil("HMCE-METER-01", 20, 25, "voltage_v = 500")  # rows that are in quarantine
    world.spoil("HMCE-BESS-01", 60, 75, "heartbeat = 7")  # frozen
    world.on(
        "INSERT INTO flux.mg_quarantine (device_id, time, kind, row, reason)"
        " SELECT device_id, time, 'impossible', to_jsonb(x), 'voltage_v 500 is outside of 0 to 460'"
        " FROM flux.mg_meter_readings x WHERE voltage_v = 500"
    )
    look(world)
    assert listed(world) == [
        (battery, "power_kw", "outlier", "critical"),
        ("HMCE-METER-01", "row", "impossible", "warning"),
        (battery, "temperature_c", "outlier", "warning"),
        ("HMCE-BESS-01", "row", "stale", "warning"),
        (meter, "energy_import_kwh", "outlier", "info"),
        (battery, "voltage_v", "outlier", "info"),
    ]
    with connected(world.settings) as connection:
        found = {(one.device, one.metric): one for one in find(connection)}
        power = found[battery, "power_kw"]
        assert power.message.startswith(f"{battery}: power_kw 20 beside setpoint_kw, expected -1.")
        assert (power.start, power.end) == (START + timedelta(minutes=5), START + timedelta(minutes=15))
        around = readings_around(connection, power, margin_s=120, limit=5)
        assert [row["power_kw"] - row["setpoint_kw"] > 10 for row in around] == [
            False,
            False,
            True,
            True,
            True,
        ]
        assert "boot_id" not in around[0]
        # By reference: the rows themselves are in the quarantine only.
        bad = found["HMCE-METER-01", "row"]
        assert (bad.value, bad.evidence["rows"], len(bad.evidence["quarantine"])) == (None, 6, 2)
        assert "6 rows in quarantine: voltage_v 500" in bad.message
        assert "heartbeat stands still at 7" in found["HMCE-BESS-01", "row"].message
        table = describe(list(found.values()))
        assert table.splitlines()[-1] == "1 critical, 3 warning, 2 info"
    assert len(listed(world, least="warning")) == 4
    assert len(listed(world, sites=["HMCE"])) == 2
    assert len(listed(world, devices=[meter])) == 1
    assert listed(world, older_than_h=1) == []


def test_planned_maintenance_raises_no_alarm(world: AnomalyWorld) -> None:
    world.spoil("WLCE-BESS-01", 5, 15, "temperature_c = 60")
    world.on(
        "INSERT INTO flux.mg_maintenance (site, started_at, planned_until, ended_at, reason, owner, run_id)"
        " VALUES ('WLCE', %s, %s, %s, 'new fans', 'x', 'y')",
        START,
        END,
        START + timedelta(minutes=12),
    )
    (found,) = look(world).found
    # What exceeds the plan is an anomaly.
    assert (found.metric, found.evidence["values"]) == ("temperature_c", 4)


def test_an_anomaly_grows_is_resolved_once_and_does_not_come_back(world: AnomalyWorld) -> None:
    battery = "WLCE-BESS-01"
    world.spoil(battery, 50, 60, "temperature_c = 42")
    look(world)
    look(world)
    (before,) = world.on("SELECT id, upper(span), value FROM flux.mg_anomaly")
    world.spoil(battery, 61, 80, "temperature_c = 62")
    look(world)
    (after,) = world.on("SELECT id, upper(span), value FROM flux.mg_anomaly")
    assert (after[0], after[1] - before[1], after[2]) == (before[0], timedelta(minutes=20), 62)

    seen, done = settle(world, [after[0]], check=True)
    assert ([one.id for one in seen], done) == ([after[0]], [])
    assert len(listed(world)) == 1
    for ids, resolution, options, words in (
        ([after[0], 99], FIXED, {}, "there is no anomaly 99"),
        ([after[0]], FIXED, {"sites": ["HMCE"]}, f"anomaly {after[0]} is of site WLCE, not of the target"),
        ([], FIXED, {}, "name the anomalies"),
        ([after[0]], Resolution("gone", "x", "y"), {}, "no resolution 'gone'"),
        ([after[0]], Resolution("fixed", " ", "y"), {}, "needs a text"),
    ):
        with pytest.raises(TelemetryError, match=words):
            settle(world, ids, resolution, **options)
    assert len(listed(world)) == 1
    settle(world, [after[0]])
    assert listed(world) == []
    assert listed(world, resolved=True) == [(battery, "temperature_c", "outlier", "critical")]
    # The second time the same is said: nothing to do. Something else: refused.
    seen, done = settle(world, [after[0]])
    assert (seen, [one.id for one in done]) == ([], [after[0]])
    with pytest.raises(TelemetryError, match="was resolved by ops@control"):
        settle(world, [after[0]], Resolution("accepted", "x", "y"))
    # The rows are still unlike the day before, but somebody has said what they were.
    assert look(world).found == []
    world.spoil(battery, 81, 85, "temperature_c = 62")
    look(world)
    assert len(listed(world)) == 1


def test_resolving_releases_the_rows_in_quarantine_that_it_stands_for(world: AnomalyWorld) -> None:
    for minute in (1, 2, 3):
        world.on(
            "INSERT INTO flux.mg_quarantine (device_id, time, kind, row, reason)"
            " VALUES (%s, %s, 'impossible', '{}', 'x')",
            world.ids["HMCE-METER-01"],
            START + timedelta(minutes=minute),
        )
        if minute == 2:
            look(world)
    (identifier,) = world.on("SELECT id FROM flux.mg_anomaly")[0]
    settle(world, [identifier], Resolution("false_positive", "the profile was wrong", "me"))
    rows = world.on("SELECT resolution FROM flux.mg_quarantine ORDER BY time")
    # The third came after the anomaly was looked at.
    assert rows == [("false_positive: the profile was wrong",)] * 2 + [(None,)]
    look(world)
    assert listed(world) == [("HMCE-METER-01", "row", "impossible", "warning")]


def test_the_job_counts_what_is_open(world: AnomalyWorld, tmp_path: Path) -> None:
    world.spoil("WLCE-BESS-01", 50, 60, "temperature_c = 42")
    settings = JobSettings("flux", world.settings | {"user": "flux_jobs"}, tmp_path, tmp_path)
    done = anomaly_detection.work(settings)
    assert (done.records, done.evidence["new"], done.evidence["open"]) == (1, 1, 1)
    figures = {(one.labels["site"], one.labels["severity"]): one.value for one in done.metrics}
    assert figures["WLCE", "warning"] == 1
    assert anomaly_detection.work(settings).evidence["new"] == 0


def test_bounds() -> None:
    metric = Metric("voltage_v", "level", 1.0)
    assert Usual(59, 24, (1, 2, 3, 4, 5)).bounds(metric) is None
    assert Usual(1000, 5.9, (1, 2, 3, 4, 5)).bounds(metric) is None
    # A constant value: what the instrument is worth remains.
    bounds = Usual(1000, 24, (230.0,) * 5).bounds(metric)
    assert bounds is not None
    assert (bounds.low, bounds.high) == (227, 233)
    assert bounds.beyond(240) == 10
    assert [severity(10, 3), severity(9.9, 3), severity(1000, 2)] == ["critical", "warning", "info"]


def test_every_metric_is_a_column_of_its_table(world: AnomalyWorld) -> None:
    for kind, metrics in METRICS.items():
        columns = {
            row[0]
            for row in world.on(
                "SELECT column_name FROM information_schema.columns WHERE table_name = %s",
                f"mg_{kind}_readings",
            )
        }
        assert {one.name for one in metrics} | {one.reference for one in metrics if one.reference} <= columns


def test_the_database_keeps_one_open_anomaly_and_refuses_nonsense(world: AnomalyWorld) -> None:
    one = Found(world.ids["WLCE-BESS-01"], "voltage_v", "outlier", "info", START, END, {}, 1.0, 2.0, 3.0)
    with connected(world.settings | {"user": "flux_jobs"}) as connection:
        assert record(connection, [one]) == (1, 0)
        assert record(connection, [one]) == (0, 0)
    with connected(world.settings | {"user": "flux_reader"}) as connection, pytest.raises(TelemetryError):
        record(connection, [one])
