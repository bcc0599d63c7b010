"""Faults to be known before the standby is needed: by database_status, and by the hub's Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from system import LabSystem

CERTIFICATE = "/etc/ssl/certs/ssl-cert-snakeoil.pem"
KEY = "/etc/ssl/private/ssl-cert-snakeoil.key"
# Written while the standby is away, and more than a whole segment.
WRITTEN_MB = 48


def alerts(system: LabSystem) -> set[tuple[str, str]]:
    """The alerts that have begun, with the host that each names; how long one waits is promtool's test."""
    told = system.measured("ALERTS")
    return {(one["metric"]["alertname"], one["metric"].get("host", "")) for one in told}


@pytest.fixture
def standby(flux_ha: LabSystem) -> str:
    return flux_ha.standby()


@contextmanager
def stopped(system: LabSystem, host: str) -> Iterator[None]:
    """The host's server does not run meanwhile; its guard does not start it either."""
    system.on_host(host, "systemctl", "stop", "postgresql@17-main")
    try:
        yield
    finally:
        system.on_host(host, "systemctl", "start", "postgresql@17-main")


def test_a_stopped_standby_and_its_growing_slot_are_told(flux_ha: LabSystem, standby: str) -> None:
    primary = flux_ha.primary()
    inputs = {"max_slot_mb": str(WRITTEN_MB // 2), "reason": "test"}
    with stopped(flux_ha, standby):
        flux_ha.psql(
            primary,
            "SELECT count(pg_logical_emit_message(false, 'test', repeat(md5(n::text), 32768)))"
            f" FROM generate_series(1, {WRITTEN_MB}) AS n",
        )
        status = flux_ha.playbook("database_status", inputs)
        assert status.code != 0
        said = " ".join(status.output.split())
        assert f"{standby} is a standby and is stopped" in said
        assert "MB of log" in said
        wanted = {("DatabaseServerDown", standby), ("DatabaseStandbyMissing", primary)}
        flux_ha.wait("the alerts begin", lambda: wanted <= alerts(flux_ha), 120)
        (slot,) = flux_ha.measured(f'stationkeeper_database_slot_retained_bytes{{host="{primary}"}}')
        assert float(slot["value"][1]) > WRITTEN_MB / 2 * 2**20
    flux_ha.wait(
        "the standby is in order again",
        lambda: flux_ha.playbook("database_status", inputs).code == 0,
        120,
    )
    flux_ha.wait("the alerts end", lambda: not wanted & alerts(flux_ha), 120)


def test_a_certificate_that_ends_tomorrow_is_told(flux_ha: LabSystem, standby: str) -> None:
    flux_ha.on_host(standby, "cp", "-a", CERTIFICATE, f"{CERTIFICATE}.kept")
    try:
        flux_ha.on_host(
            standby, "openssl", "req", "-x509", "-key", KEY, "-subj", f"/CN={standby}", "-days", "1",
            "-out", CERTIFICATE,
        )  # fmt: skip
        wanted = ("DatabaseCertificateExpires", standby)
        flux_ha.wait("the alert begins", lambda: wanted in alerts(flux_ha), 180)
    finally:
        flux_ha.on_host(standby, "mv", f"{CERTIFICATE}.kept", CERTIFICATE)


def test_commits_that_wait_for_a_standby_that_is_gone_are_released(flux_ha: LabSystem, standby: str) -> None:
    primary = flux_ha.primary()
    inputs = {"target": "databases", "confirm": "databases", "reason": "test"}
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    flux_ha.psql(primary, f"ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 ({standby})'")
    flux_ha.psql(primary, "SELECT pg_reload_conf()")
    with ThreadPoolExecutor(1) as aside:
        try:
            refused = flux_ha.playbook("database_run_alone", inputs)
            assert refused.code != 0
            assert f"{standby} confirms every commit" in " ".join(refused.output.split())
            with stopped(flux_ha, standby):
                write = aside.submit(
                    flux_ha.query, "SELECT pg_logical_emit_message(true, 'test', '')", role="operator"
                )
                flux_ha.wait("the commit waits", lambda: flux_ha.psql(primary, waiting) != "0", 30)
                done = flux_ha.playbook("database_run_alone", inputs)
                assert done.code == 0, done.output[-3000:]
                write.result(timeout=30)
                assert flux_ha.psql(primary, "SHOW synchronous_standby_names") == ""
                again = flux_ha.playbook("database_run_alone", inputs)
                assert again.code == 0, again.output[-3000:]
                assert "waits for no standby already" in " ".join(again.output.split())
        finally:
            # As the inventory has it; a commit that still waits ends.
            flux_ha.psql(primary, "ALTER SYSTEM RESET synchronous_standby_names")
            flux_ha.psql(primary, "SELECT pg_reload_conf()")
