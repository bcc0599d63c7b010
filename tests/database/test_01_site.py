"""The system with a standby: site.yml makes it from bare hosts. test_02 has the second run."""

from __future__ import annotations

import re

from system import LabSystem


def test_converge(flux_ha: LabSystem) -> None:
    play = flux_ha.playbook("site", None, "--diff")
    assert play.code == 0, play.output[-8000:]
    assert "DEPRECATION" not in play.output


def test_one_host_is_primary_and_the_other_streams_in_both_views(flux_ha: LabSystem) -> None:
    play = flux_ha.playbook("database_status")
    assert play.code == 0, play.output[-5000:]
    assert "streaming async" in play.output
    assert "follows " in play.output


def test_the_standby_has_the_schema_and_refuses_to_write(flux_ha: LabSystem) -> None:
    standby = flux_ha.hosts("databases")[1]
    words = ["runuser", "-u", "postgres", "--", "psql", "-XqAt", "-d", "flux", "-c"]
    assert int(flux_ha.on_host(standby, *words, "SELECT count(*) FROM ops.migrations").stdout) > 0
    refused = flux_ha.on_host(standby, *words, "CREATE TABLE ops.not_here ()", check=False)
    assert "read-only transaction" in refused.stderr


def test_the_jobs_in_the_database_are_skipped_on_the_standby(flux_ha: LabSystem) -> None:
    primary, standby = flux_ha.hosts("databases")
    show = ["systemctl", "show", "--property=Result", "--value", "flux-rollup.service"]
    for host, result in ((primary, "success"), (standby, "exec-condition")):
        flux_ha.on_host(host, "systemctl", "start", "flux-rollup.service")
        assert flux_ha.on_host(host, *show).stdout.strip() == result


def test_every_unit_that_this_repository_makes_or_confines_is_in_a_sandbox(flux_ha: LabSystem) -> None:
    # Files only: what systemd links there is Debian's.
    ask = (
        "cd /etc/systemd/system; "
        "for file in $(find . -maxdepth 1 -type f -name '*.service' -printf '%f ')"
        " $(ls -d *.service.d/50-sandbox.conf | cut -d. -f1 | sed s/$/.service/); do "
        'systemd-analyze security --no-pager "$(echo "$file" | sed s/@/@x/)"; done'
    )
    found = {
        f"{unit} on {host}": float(exposure)
        for host in flux_ha.addresses
        for unit, exposure in re.findall(
            r"exposure level for (\S+): ([0-9.]+)", flux_ha.on_host(host, "sh", "-c", ask, check=False).stdout
        )
    }
    assert len(found) > 10
    assert found.keys() >= {"haproxy.service on fluxhub", "prometheus-node-exporter.service on wlce"}
    assert {unit: exposure for unit, exposure in found.items() if exposure >= 3.0} == {}
