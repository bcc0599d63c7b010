"""A day's outage of a station: when it is back, its own buffer closes every gap, counted by sequence numbers.

Time is compressed: a sample each 200 ms, and the cut lasts until as many of each device wait as a day
has at five minutes.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from system import LabSystem

STATION, SITE = "hmce", "HMCE"
DEVICES = 2
SAMPLES = 24 * 12
SETTLE_S = 20
STORED = """
FROM flux.mg_device_registry AS device
JOIN (SELECT device_id, boot_id, seq, time FROM flux.mg_bess_readings
      UNION ALL SELECT device_id, boot_id, seq, time FROM flux.mg_meter_readings) AS stored
  ON stored.device_id = device.id
WHERE device.site = %s AND stored.time >= %s
"""
# For each device and start of the controller: rows that there should be, and rows.
COUNTED = (
    "SELECT device.name, stored.boot_id::text, max(seq) - min(seq) + 1, count(DISTINCT seq), count(*)"
    f"{STORED} AND stored.time < %s GROUP BY 1, 2"
)


def tune(flux: LabSystem, **inputs: object) -> None:
    play = flux.playbook("edge_tune", {"target": STATION, "reason": "outage test", "watch_s": 5, **inputs})
    assert play.code == 0, play.output[-4000:]


def waiting(flux: LabSystem) -> int:
    """Rows in the station's buffer, asked past its network."""
    told = flux.on_host(STATION, "/opt/stationkeeper/venv/bin/stationkeeper", "controller", "status").stdout
    return int(json.loads(told)["buffer"]["rows"])


@pytest.mark.criterion("GR-11")
def test_after_a_days_outage_every_gap_closes_by_itself(flux: LabSystem) -> None:
    tune(flux, poll_interval="200ms")
    try:
        start = datetime.now(UTC)
        flux.labctl("cut", STATION, "--for", "600")
        flux.wait("a day of samples", lambda: waiting(flux) > DEVICES * (SAMPLES + 10), timeout_s=500)
        away = flux.playbook("telemetry_resync", {"target": STATION, "wait_s": 0, "settle_s": SETTLE_S})
        assert away.code != 0
        assert "pending" in away.output, away.output[-4000:]
        window = {"target": STATION, "window_start": start.isoformat(), "settle_s": 5}
        found = flux.playbook("telemetry_gap_check", window)
        assert found.code != 0, "the gap check did not see the cut"

        flux.labctl("heal", STATION)
        end = datetime.now(UTC)
        late = end + timedelta(seconds=SETTLE_S)
        flux.wait(
            "rows from after the cut",
            lambda: flux.query(f"SELECT count(DISTINCT device.id){STORED}", (SITE, late)) == [(DEVICES,)],
            timeout_s=120,
        )
        synced = flux.playbook("telemetry_resync", {"target": STATION, "settle_s": SETTLE_S})
        assert synced.code == 0, synced.output[-4000:]
        assert "synced" in synced.output
        counted = flux.query(COUNTED, (SITE, start, end))
        assert len(counted) == DEVICES, counted
        for name, boot, due, different, rows in counted:
            assert due == different == rows, (name, boot, due, different, rows)
            assert rows >= SAMPLES, (name, rows)
        closed = flux.playbook("telemetry_gap_check", {**window, "window_end": end.isoformat()})
        assert closed.code == 0, closed.output[-4000:]
    finally:
        flux.labctl("heal", STATION)
        tune(flux, clear=["poll_interval"])
