"""Maintenance of the databases on real hosts, and the start of a whole system that was stopped."""

from __future__ import annotations

from system import LabSystem


def test_weekly_maintenance_acts_on_the_primary_and_then_has_nothing_to_do(flux_ha: LabSystem) -> None:
    given = {"target": "databases", "reason": "test"}
    assert flux_ha.playbook("database_maintain_weekly", given, "--check").code == 0
    first = flux_ha.playbook("database_maintain_weekly", given)
    assert first.code == 0, first.output
    assert "standby, it follows the primary" in first.output
    second = flux_ha.playbook("database_maintain_weekly", {**given, "rollup_days": 0})
    assert second.code == 0, second.output
    assert "nothing was due" in second.output


def test_no_damage_is_found_on_either_host_and_statements_are_counted(flux_ha: LabSystem) -> None:
    look = flux_ha.playbook("database_corruption", {"target": "databases"}, "--check")
    assert look.code == 0, look.output
    assert look.output.count("pages looked at") >= 2
    queries = flux_ha.playbook("database_slow_queries", {})
    assert queries.code == 0, queries.output


def test_a_system_that_was_stopped_is_started_in_order_with_one_primary(flux_ha: LabSystem) -> None:
    before = flux_ha.primary()
    for host in flux_ha.hosts("stations"):
        flux_ha.on_host(host, "systemctl", "stop", "bess_controller")
    for host in flux_ha.hosts("hubs"):
        flux_ha.on_host(host, "systemctl", "stop", "redis-server", "prometheus")
    for host in flux_ha.hosts("databases"):
        flux_ha.on_host(host, "systemctl", "stop", "postgresql-guard")
        flux_ha.on_host(host, "pg_ctlcluster", "17", "main", "stop", "-m", "fast")
    start = flux_ha.playbook("system_start", {"target": "all", "reason": "test"})
    assert start.code == 0, start.output
    assert flux_ha.primary() == before
    again = flux_ha.playbook("system_start", {"target": "all", "reason": "test"})
    assert again.code == 0, again.output
    assert again.output.count("all ran already") == len(flux_ha.addresses)
