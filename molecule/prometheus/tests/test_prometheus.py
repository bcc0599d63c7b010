"""Monitoring, looked at with the programs' own tools and from outside."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

SECRETS = ('scenario$"only', "scenario-only-redis")
API = "http://127.0.0.1:9090/api/v1"


def ask(host: Any, path: str) -> Any:
    """Ask Prometheus as an operator would."""
    return json.loads(host.check_output(f"python3 -c {PYTHON!r} '{API}/{path}'"))["data"]


# The lab's hosts have no curl.
PYTHON = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"


@pytest.mark.parametrize(
    "unit",
    [
        "prometheus",
        "prometheus-alertmanager",
        "prometheus-node-exporter",
        "prometheus-postgres-exporter",
        "prometheus-redis-exporter",
        "prometheus-blackbox-exporter",
    ],
)
def test_services_run_and_start_at_boot(host: Any, unit: str) -> None:
    assert host.service(unit).is_running
    assert host.service(unit).is_enabled


def test_the_programs_accept_their_configuration(host: Any) -> None:
    host.run_expect([0], "promtool check config /etc/prometheus/prometheus.yml")
    host.run_expect([0], "amtool check-config /etc/prometheus/alertmanager.yml")


def test_secrets_are_for_root_only_and_in_no_command_line(host: Any) -> None:
    for name in ("postgres", "redis"):
        settings = host.file(f"/etc/default/prometheus-{name}-exporter")
        assert (settings.user, settings.group, settings.mode) == ("root", "root", 0o600)
    lines = host.check_output("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    journal = host.check_output("journalctl --no-pager --output=cat")
    for secret in SECRETS:
        assert secret not in lines
        assert secret not in journal


def test_the_textfile_collector_works(host: Any) -> None:
    file = "/var/lib/prometheus/node-exporter/scenario.prom"
    host.run_expect([0], f"sh -c 'echo scenario_metric 42 > {file}'")
    try:
        metrics = host.check_output(f"python3 -c {PYTHON!r} http://127.0.0.1:9100/metrics")
    finally:
        host.run_expect([0], f"rm {file}")
    assert "scenario_metric 42" in metrics.splitlines()


def test_the_root_file_system_is_watched(host: Any) -> None:
    found = ask(host, "query?query=node_filesystem_size_bytes")["result"]
    assert "/" in {series["metric"]["mountpoint"] for series in found}


def test_a_stopped_redis_is_seen_and_its_return_too(host: Any) -> None:
    def redis_up() -> str:
        return str(ask(host, "query?query=redis_up")["result"][0]["value"][1])

    assert redis_up() == "1"
    host.run_expect([0], "systemctl stop redis-server")
    try:
        assert within(20, lambda: redis_up() == "0")
    finally:
        host.run_expect([0], "systemctl start redis-server")
    assert within(20, lambda: redis_up() == "1")


def test_the_watchdog_reaches_its_receiver(host: Any) -> None:
    said = host.check_output(
        "amtool --alertmanager.url=http://127.0.0.1:9093 --output=json alert query alertname=Watchdog"
    )
    (alert,) = json.loads(said)
    assert alert["labels"]["system"] == "molprom"
    assert [receiver["name"] for receiver in alert["receivers"]] == ["watchdog"]


def within(seconds: float, condition: Any) -> bool:
    """Wait until the condition holds, at most so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(1)
    return False
