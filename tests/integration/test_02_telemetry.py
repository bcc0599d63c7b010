"""Telemetry equals what the devices served, through a network cut and a kill -9, row by row."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from reconciliation import reconcile_system
from system import LabSystem

CUT_S = 30


def test_rows_equal_what_was_served_through_a_cut_and_a_kill(flux: LabSystem) -> None:
    start = datetime.now(UTC)
    window = {"target": "hmce", "window_start": start.isoformat()}
    time.sleep(5)
    flux.labctl("cut", "hmce", "--for", str(CUT_S))
    time.sleep(CUT_S * 0.6)
    kill = datetime.now(UTC)
    flux.on_host("lfce", "systemctl", "kill", "--signal=KILL", "bess_controller.service")

    found = flux.playbook("telemetry_gap_check", {**window, "settle_s": 5})
    assert found.code != 0, "the gap check did not see the cut"
    assert "HMCE-BESS-01" in found.output

    time.sleep(CUT_S * 0.4 + 35)
    closed = flux.playbook("telemetry_gap_check", {**window, "settle_s": 15})
    result = reconcile_system(flux, start, {"lfce": [kill]})
    assert result.complete, "\n".join(result.lines())
    assert closed.code == 0, closed.output[-4000:]


def test_rollup_and_retention_have_run(flux: LabSystem) -> None:
    for timer in ("flux-rollup", "flux-retention"):
        flux.on_host("fluxdb", "systemctl", "start", f"{timer}.service")
    rows = flux.query("SELECT count(*), sum(samples) FROM flux.mg_meter_readings_5m_intermediate")
    assert rows[0][0] > 0
    wrong = flux.query(
        """
        SELECT count(*) FROM flux.mg_meter_readings_5m_intermediate AS rollup
        JOIN LATERAL (
          SELECT count(*) AS samples, avg(power_kw) AS average FROM flux.mg_meter_readings AS reading
          WHERE reading.device_id = rollup.device_id
            AND reading.time >= rollup.bucket AND reading.time < rollup.bucket + interval '5 minutes'
        ) AS raw ON true
        WHERE rollup.bucket < now() - interval '6 minutes'
          AND (raw.samples <> rollup.samples OR abs(raw.average - rollup.power_kw_avg) > 1e-9)
        """
    )
    assert wrong[0][0] == 0
