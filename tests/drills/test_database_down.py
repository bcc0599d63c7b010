"""Drill: the database host loses its power.

Health says critical, the stations buffer, a stop still works, and afterwards every row arrives.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from system import LabSystem

OUTAGE_S = 60


def test_database_outage(flux: LabSystem) -> None:
    window = {"target": "all", "window_start": datetime.now(UTC).isoformat(), "settle_s": 10}
    started = time.monotonic()
    flux.labctl("power-cut", "fluxdb", "--for", str(OUTAGE_S))

    health = flux.playbook("check_health")
    assert health.code != 0
    assert "critical" in health.output.lower()

    stopped = flux.playbook("edge_emergency_stop", {"target": "hmce", "reason": "drill: no database"})
    assert time.monotonic() - started < OUTAGE_S, "the stop waited for the database"
    assert stopped.code == 0, stopped.output[-5000:]
    assert abs(flux.power_kw("hmce")) <= 1.0

    def answers() -> bool:
        try:
            flux.query("SELECT 1")
        except Exception:  # any kind of failure to connect is what is being waited out
            return False
        return True

    flux.wait("the database is back", answers, timeout_s=OUTAGE_S + 60)
    rows = flux.rows_by_station()
    flux.wait(
        "every station delivers again",
        lambda: all(flux.rows_by_station()[station] > rows[station] + 5 for station in flux.stations),
        timeout_s=60,
    )
    time.sleep(15)
    gaps = flux.playbook("telemetry_gap_check", window)
    assert gaps.code == 0, gaps.output[-5000:]

    released = flux.playbook(
        "edge_emergency_release", {"target": "hmce", "confirm": "hmce", "reason": "drill is over"}
    )
    assert released.code == 0, released.output[-5000:]

    # Audit records of the outage were spooled and are shipped now.
    shipped = flux.run("stationkeeper", "audit", "verify", check=False)
    assert shipped.returncode == 0, shipped.stdout + shipped.stderr
