"""Bad input: a clear message, a non-zero exit, and nothing changed."""

from __future__ import annotations

from typing import Any

import pytest

from system import LabSystem

CONFIG = "/etc/bess_controller/config.yaml"


@pytest.mark.parametrize(
    ("playbook", "variables", "message"),
    [
        ("edge_emergency_stop", {"target": "wlce", "reason": "x", "tarrget": "wlce"}, "tarrget"),
        ("edge_emergency_stop", {"target": "nowhere", "reason": "x"}, "nowhere"),
        ("edge_emergency_stop", {"target": "fluxdb", "reason": "x"}, "fluxdb"),
        ("edge_emergency_stop", {"reason": "x"}, "target"),
        ("telemetry_gap_check", {"window_hours": "many"}, "window_hours"),
        ("check_health", {"unknown_input": 1}, "unknown_input"),
    ],
)
def test_wrong_inputs_are_refused(
    flux: LabSystem, playbook: str, variables: dict[str, Any], message: str
) -> None:
    play = flux.playbook(playbook, variables)
    assert play.code != 0
    assert message in play.output
    assert play.changed == {}


def test_malformed_configuration_on_a_station_leaves_the_last_good_one_in_force(flux: LabSystem) -> None:
    original = flux.on_host("hmce", "cat", CONFIG).stdout
    rows = flux.rows_by_station()["hmce"]
    try:
        flux.on_host("hmce", "sh", "-c", f"echo 'controller: [this is not, a mapping' > {CONFIG}")
        flux.on_host("hmce", "systemctl", "restart", "bess_controller.service")
        flux.wait("rows in spite of it", lambda: flux.rows_by_station()["hmce"] > rows + 3, timeout_s=60)
        metrics = flux.run("curl", "-fsS", f"http://{flux.addresses['hmce']}:9105/metrics").stdout
        assert 'stationkeeper_config_valid{site="HMCE"} 0.0' in metrics
        journal = flux.on_host("hmce", "journalctl", "-u", "bess_controller", "-n", "60", "-o", "cat").stdout
        assert "config.yaml" in journal
        health = flux.playbook("check_health", {"target": "hmce"})
        assert health.code != 0
        assert "hmce" in health.output
    finally:
        flux.on_host("hmce", "sh", "-c", f"cat > {CONFIG} <<'EOF'\n{original}EOF")
        flux.on_host("hmce", "systemctl", "restart", "bess_controller.service")


def test_an_unknown_profile_type_is_refused_before_anything_changes(flux: LabSystem) -> None:
    before = flux.on_host("lfce", "sha256sum", CONFIG).stdout
    devices = [
        {
            "name": "LFCE-BESS-01",
            "type": "flywheel",
            "profile": "generic_battery",
            "modbus": {"host": flux.addresses["lfce"], "port": 502, "unit": 1},
            "rating_kw": 50,
            "capacity_kwh": 100,
            "cadence_s": 2,
        }
    ]
    play = flux.playbook("site", {"station_devices": devices}, "--limit", "lfce,localhost")
    assert play.code != 0
    assert "flywheel" in play.output
    assert flux.on_host("lfce", "sha256sum", CONFIG).stdout == before
