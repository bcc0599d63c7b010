"""Rows that are lost in the database come back from an export: found, recovered, proven, on real hosts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from system import LabSystem

STATION, SITE = "wlce", "WLCE"
WINDOW_S = 120
# Rows younger than this may still be on their way.
SETTLE_S = 30
# Rows of the station's two devices, and a checksum of their values that does not depend on their order.
STORED = """
SELECT count(*), bit_xor(hashtextextended(row::text, 0))
FROM flux.mg_device_registry AS device
JOIN (SELECT device_id, time, b::text AS row FROM flux.mg_bess_readings AS b
      UNION ALL SELECT device_id, time, m::text FROM flux.mg_meter_readings AS m) AS stored
  ON stored.device_id = device.id
WHERE device.site = %s AND stored.time >= %s AND stored.time < %s
"""
# The longest time between two rows of a device, and how long the time is that was looked at.
WIDEST = """
SELECT extract(epoch FROM max(distance))::float8, extract(epoch FROM max(time) - min(time))::float8
FROM (SELECT time, time - lag(time) OVER (PARTITION BY device_id ORDER BY time) AS distance
      FROM (SELECT device_id, time FROM flux.mg_bess_readings
            UNION ALL SELECT device_id, time FROM flux.mg_meter_readings) AS reading
      JOIN flux.mg_device_registry AS device ON device.id = reading.device_id
      WHERE device.site = %s AND time > now() - make_interval(secs => %s)) AS pair
"""


@pytest.fixture
def declaration(flux: LabSystem) -> Iterator[Path]:
    """A file of the inventory that names the source."""
    path = flux.inventory / "group_vars" / "all" / "recovery.yml"
    yield path
    path.unlink(missing_ok=True)


def undisturbed(flux: LabSystem) -> bool:
    """Whether the station's rows have no hole but the one that is made here: a row is due each 2 s."""
    ((widest, length),) = flux.query(WIDEST, (SITE, WINDOW_S + 3 * SETTLE_S))
    return length is not None and length > WINDOW_S + 1.5 * SETTLE_S and widest < 2.9


def lose(flux: LabSystem, start: datetime, end: datetime) -> None:
    """Delete the station's rows, as no role of the system can."""
    span = f"time >= '{start.isoformat()}' AND time < '{end.isoformat()}'"
    devices = f"device_id IN (SELECT id FROM flux.mg_device_registry WHERE site = '{SITE}')"
    for kind in ("bess", "meter"):
        statement = f"DELETE FROM flux.mg_{kind}_readings WHERE {devices} AND {span}"
        psql = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "flux", "-c", statement]
        flux.on_host("fluxdb", "runuser", "-u", "postgres", "--", *psql)


def test_lost_rows_come_back_as_they_were(flux: LabSystem, declaration: Path) -> None:
    flux.wait("rows without a hole", lambda: undisturbed(flux), timeout_s=400, interval_s=5)
    end = datetime.now(UTC) - timedelta(seconds=SETTLE_S)
    start = end - timedelta(seconds=WINDOW_S)
    window: dict[str, Any] = {
        "target": STATION,
        "window_start": start.isoformat(),
        "window_end": end.isoformat(),
    }
    cold = flux.state / "exports" / f"ring4-{end:%Y%m%dT%H%M%S}"
    exported = flux.playbook("telemetry_export", {**window, "directory": str(cold)})
    assert exported.code == 0, exported.output[-5000:]
    assert (cold / "manifest.json").exists()

    before = flux.query(STORED, (SITE, start, end))
    lose(flux, start + timedelta(seconds=30), end - timedelta(seconds=30))
    hole = flux.query(STORED, (SITE, start, end))
    assert 0 < hole[0][0] < before[0][0]
    look = {**window, "settle_s": 0}
    found = flux.playbook("telemetry_gap_check", look)
    assert found.code != 0, "the gap check did not see the loss"

    source = {"name": "export", "kind": "archive", "directory": str(cold)}
    declaration.write_text(yaml.safe_dump({"telemetry_recovery_sources": [source]}))
    recover = {**look, "reason": "ring 4: rows were deleted"}
    batches = flux.query("SELECT count(*) FROM flux.mg_backfill_batch")
    preview = flux.playbook("telemetry_gap_recover", recover, "--check")
    assert preview.code == 0, preview.output[-5000:]
    assert flux.query(STORED, (SITE, start, end)) == hole
    assert flux.query("SELECT count(*) FROM flux.mg_backfill_batch") == batches

    play = flux.playbook("telemetry_gap_recover", recover)
    assert play.code == 0, play.output[-5000:]
    assert flux.query(STORED, (SITE, start, end)) == before, "not the rows that were lost"
    closed = flux.playbook("telemetry_gap_check", look)
    assert closed.code == 0, closed.output[-5000:]
    again = flux.playbook("telemetry_gap_recover", recover)
    assert again.code == 0, again.output[-5000:]
    assert flux.query(STORED, (SITE, start, end)) == before
    ended = "SELECT DISTINCT state FROM flux.mg_gap_ledger WHERE span && tstzrange(%s, %s)"
    assert flux.query(ended, (start, end)) == [("recovered",)]


def test_a_station_sends_again_what_the_database_has_lost(flux: LabSystem) -> None:
    end = datetime.now(UTC) - timedelta(seconds=SETTLE_S)
    start = end - timedelta(seconds=60)
    before = flux.query(STORED, (SITE, start, end))
    lose(flux, start, end)
    assert flux.query(STORED, (SITE, start, end))[0][0] == 0
    resend = {"target": STATION, "resend_since": start.isoformat(), "settle_s": SETTLE_S}
    preview = flux.playbook("telemetry_resync", resend, "--check")
    assert preview.code == 0, preview.output[-5000:]
    assert flux.query(STORED, (SITE, start, end))[0][0] == 0
    play = flux.playbook("telemetry_resync", {**resend, "reason": "ring 4: rows were deleted"})
    assert play.code == 0, play.output[-5000:]
    assert flux.query(STORED, (SITE, start, end)) == before, "not the rows that were lost"
