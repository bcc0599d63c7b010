"""A station with its controller and its simulated devices, seen from outside."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

UNIT = "bess_controller"
LATCH = "/var/lib/bess_controller/latch"
# The lab's hosts have no curl.
FETCH = (
    "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9105/metrics', timeout=5).read().decode())"
)
METRICS = f'python3 -c "{FETCH}"'


def metric(host: Any, name: str) -> float:
    found = re.search(rf"^stationkeeper_{name}{{.*}} (\S+)$", host.check_output(METRICS), re.MULTILINE)
    assert found, name
    return float(found[1])


@pytest.mark.parametrize("unit", [UNIT, "device_simulator"])
def test_units_run_and_start_at_boot(host: Any, unit: str) -> None:
    assert host.service(unit).is_running
    assert host.service(unit).is_enabled


def test_the_unit_is_hardened(host: Any) -> None:
    # Exits with 1 when the exposure is above 2.4.
    host.run_expect([0], f"systemd-analyze security --threshold=24 --no-pager {UNIT}")


def test_the_controller_runs_as_nobody_of_importance(host: Any) -> None:
    pid = host.check_output(f"systemctl show -P MainPID {UNIT}")
    status = host.file(f"/proc/{pid}/status").content_string
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert host.check_output(f"stat -c %U /proc/{pid}") == UNIT


@pytest.mark.parametrize(
    ("path", "owner", "mode"),
    [
        ("/etc/bess_controller/database.yaml", "root", 0o640),
        ("/etc/bess_controller/config.yaml", "root", 0o640),
        ("/etc/bess_controller/override.yaml", "root", 0o640),
        (LATCH, "root", 0o755),
        ("/var/lib/bess_controller", "root", 0o1770),
    ],
)
def test_owners_and_modes(host: Any, path: str, owner: str, mode: int) -> None:
    # The configuration's names are links into the release in force.
    file = host.file(host.check_output(f"readlink -f {path}"))
    assert (file.user, file.mode) == (owner, mode)
    assert file.group in (UNIT, "root")


def test_the_configuration_is_a_release(host: Any) -> None:
    release = host.check_output("readlink /etc/bess_controller/current")
    assert re.fullmatch(r"releases/[0-9a-f]{12}", release)
    for name in ("config.yaml", "override.yaml", "profiles"):
        assert host.check_output(f"readlink /etc/bess_controller/{name}") == f"current/{name}"
    assert not host.file("/var/lib/stationkeeper/releases/config.trial.json").exists


def test_the_password_is_in_no_command_line_and_no_journal(host: Any) -> None:
    lines = host.check_output("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    journal = host.check_output("journalctl --no-pager --output=cat")
    assert "only-for-this-scenario" not in lines + journal


def test_the_controller_can_neither_clear_nor_move_the_latch(host: Any) -> None:
    host.run_expect([0], f"sh -c 'echo {{}} > {LATCH}/emergency_stop.json'")
    try:
        for command in (f"rm {LATCH}/emergency_stop.json", f"mv {LATCH} {LATCH}.away"):
            assert host.run(f"runuser -u {UNIT} -- {command}").rc != 0
    finally:
        host.run_expect([0], f"rm {LATCH}/emergency_stop.json")


def test_a_file_in_the_latchs_place_latches_whatever_is_in_it(host: Any) -> None:
    host.run_expect([0], f"sh -c 'echo rubbish > {LATCH}/emergency_stop.json'")
    try:
        assert within(5, lambda: metric(host, "emergency_stop_latched") == 1)
    finally:
        host.run_expect([0], f"rm {LATCH}/emergency_stop.json")
    assert within(5, lambda: metric(host, "emergency_stop_latched") == 0)


def test_a_killed_controller_comes_back(host: Any) -> None:
    before = host.check_output(f"systemctl show -P MainPID {UNIT}")
    host.run_expect([0], f"systemctl kill --signal=KILL {UNIT}")
    assert within(15, lambda: host.check_output(f"systemctl show -P MainPID {UNIT}") not in (before, "0"))
    assert within(15, lambda: host.run(METRICS).rc == 0 and metric(host, "config_valid") == 1)


def test_a_malformed_config_leaves_the_last_good_one_in_force(host: Any) -> None:
    path = "/etc/bess_controller/override.yaml"
    host.run_expect([0], f"cp {path} /run/override.yaml")
    host.run_expect([0], f"sh -c 'echo controler: 3 > {path}'")
    try:
        host.run_expect([0], f"systemctl restart {UNIT}")
        assert within(15, lambda: host.run(METRICS).rc == 0 and metric(host, "config_valid") == 0)
        assert "controler" in host.check_output(f"journalctl -u {UNIT} -n 30 --no-pager")
        assert within(10, lambda: time.time() - metric(host, "last_sample_timestamp_seconds") < 5)
    finally:
        host.run_expect([0], f"cp /run/override.yaml {path}")
        host.run_expect([0], f"systemctl reload {UNIT}")
    assert within(10, lambda: metric(host, "config_valid") == 1)


def test_samples_wait_for_the_database(host: Any) -> None:
    before = metric(host, "buffer_rows")
    assert within(10, lambda: metric(host, "buffer_rows") > before)


def within(seconds: float, condition: Any) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.5)
    return False
