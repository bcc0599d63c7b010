"""Drill: the database host loses its power.

A stop still works, health says critical, the stations buffer, and afterwards every row arrives.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import psycopg2

from system import LabSystem

# Long enough for any machine; the drill ends the outage itself, and the lab does when the drill is killed.
OUTAGE_S = 600


def answers(flux: LabSystem) -> bool:
    """Whether the database takes connections."""
    try:
        flux.query("SELECT 1")
    except psycopg2.OperationalError:
        return False
    return True


def test_database_outage(flux: LabSystem) -> None:
    window = {"target": "all", "window_start": datetime.now(UTC).isoformat(), "settle_s": 10}
    flux.labctl("power-cut", "fluxdb", "--for", str(OUTAGE_S))
    try:
        stopped = flux.playbook("edge_emergency_stop", {"target": "hmce", "reason": "drill: no database"})
        assert stopped.code == 0, stopped.output[-5000:]
        assert abs(flux.power_kw("hmce")) <= 1.0
        assert not answers(flux), "the stop was to be proven without a database"

        health = flux.playbook("check_health", {"target": "hmce"})
        assert health.code != 0
        assert "critical" in health.output.lower()
        assert not answers(flux), "health was to be asked without a database"
    finally:
        flux.labctl("heal", "fluxdb")

    flux.wait("the database is back", lambda: answers(flux), timeout_s=180)
    rows = flux.rows_by_station()
    flux.wait(
        "every station delivers again",
        lambda: all(flux.rows_by_station()[station] > rows[station] + 5 for station in flux.stations),
        timeout_s=120,
    )
    time.sleep(15)
    gaps = flux.playbook("telemetry_gap_check", window)
    assert gaps.code == 0, gaps.output[-5000:]

    released = flux.playbook(
        "edge_emergency_release", {"target": "hmce", "confirm": "hmce", "reason": "drill is over"}
    )
    assert released.code == 0, released.output[-5000:]

    # Audit records of the outage were spooled and are shipped now.
    verified = flux.run("stationkeeper", "audit", "verify", "--database", check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr
