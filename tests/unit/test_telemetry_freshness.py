"""Freshness of registered devices on a real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from telemetry_database import add_device, add_rows, create_tables

from stationkeeper.telemetry.freshness import Limits, ask, by_site, judge
from stationkeeper.telemetry.source import TelemetryError

DAY = timedelta(days=1)


def test_every_state_is_found(postgres_settings: dict[str, Any]) -> None:
    now = datetime.now(UTC)
    connection = create_tables(postgres_settings)
    ages = {"A-fresh": [1, 11], "B-late": [100], "C-silent": [4000], "D-never": [], "E-future": [-7200]}
    for name, rows in ages.items():
        device = add_device(connection, name, cadence_s=10, active_from=now - DAY)
        add_rows(connection, device, [now - timedelta(seconds=age) for age in rows])
    add_device(
        connection, "F-removed", cadence_s=10, active_from=now - DAY, active_to=now - timedelta(hours=1)
    )
    add_device(connection, "G-planned", cadence_s=10, active_from=now + DAY)
    add_device(connection, "H-new", cadence_s=10, active_from=now - timedelta(seconds=5), kind="meter")
    found = ask(connection)
    assert {entry.device.name: entry.state for entry in found} == {
        "A-fresh": "ok",
        "B-late": "late",
        "C-silent": "silent",
        "D-never": "never",
        # A stamp from the future does not make a device fresh.
        "E-future": "never",
        "H-new": "late",
    }
    silent = found[2].as_dict()
    assert silent["age_s"] == pytest.approx(4000, abs=30)
    assert silent["last"].endswith("Z")
    assert silent["message"].startswith("C-silent: last row 40")
    assert found[3].as_dict()["message"] == "D-never has never sent a row"
    (summary,) = by_site(found).values()
    assert {key: summary[key] for key in ("devices", "ok", "late", "silent", "never")} == {
        "devices": 6,
        "ok": 1,
        "late": 2,
        "silent": 1,
        "never": 2,
    }
    assert summary["newest"] == found[0].as_dict()["last"]
    assert summary["oldest_age_s"] == silent["age_s"]


def test_each_device_is_judged_by_its_own_cadence() -> None:
    limits = Limits(late_cadences=3, silent_cadences=10, settle_s=30)
    assert judge(2, 36, 9999, limits) == "ok"
    assert judge(2, 37, 9999, limits) == "late"
    assert judge(2, 51, 9999, limits) == "silent"
    assert judge(60, 209, 9999, limits) == "ok"
    assert judge(60, 631, 9999, limits) == "silent"
    assert judge(60, None, 630, limits) == "late"
    assert judge(60, None, 631, limits) == "never"


def test_no_device_is_no_health(postgres_settings: dict[str, Any]) -> None:
    connection = create_tables(postgres_settings)
    with pytest.raises(TelemetryError, match="is empty"):
        ask(connection)
    now = datetime.now(UTC)
    add_device(connection, "A", cadence_s=10, active_from=now - DAY, active_to=now - timedelta(hours=1))
    with pytest.raises(TelemetryError, match="no device in service"):
        ask(connection)
    with pytest.raises(TelemetryError, match="late before it is silent"):
        ask(connection, limits=Limits(late_cadences=5, silent_cadences=3))
