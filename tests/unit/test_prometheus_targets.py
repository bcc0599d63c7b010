"""What Prometheus is told to read: Patroni and etcd where an inventory has them, and only there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
ROLE = REPOSITORY / "roles" / "prometheus"


def configuration(inventory: str) -> dict[str, Any]:
    """Return prometheus.yml as the role writes it for an inventory; no host is asked."""
    command = [Path(sys.executable).parent / "ansible", "localhost", "-i", f"inventories/{inventory}"]
    command += ["-c", "local", "-m", "ansible.builtin.debug", "-e", f"@{ROLE}/defaults/main.yml"]
    command += ["-e", f"@{ROLE}/vars/main.yml"]
    template = ROLE / "templates" / "prometheus.yml.j2"
    words = {"msg": "{{ lookup('ansible.builtin.template', '" + str(template) + "') }}"}
    done = subprocess.run(
        [*map(str, command), "-a", json.dumps(words)],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal", "HOME": "/tmp"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    said = yaml.safe_load(done.stdout.split("=>", 1)[1])["msg"]
    loaded: dict[str, Any] = yaml.safe_load(said)
    return loaded


@pytest.fixture(scope="module")
def patroni() -> dict[str, Any]:
    return configuration("flux-patroni")


def job(found: dict[str, Any], name: str) -> dict[str, Any]:
    (one,) = [job for job in found["scrape_configs"] if job["job_name"] == name]
    return dict(one)


def test_patroni_is_read_over_tls_with_the_hosts_own_certificates(patroni: dict[str, Any]) -> None:
    found = job(patroni, "patroni")
    assert found["scheme"] == "https"
    assert found["tls_config"] == {"ca_file": "/etc/stationkeeper/cluster/known.pem"}
    targets = {one["labels"]["host"]: one["targets"][0] for one in found["static_configs"]}
    assert sorted(targets) == ["fluxdb1", "fluxdb2", "fluxdb3"]
    assert all(address.endswith(":8008") for address in targets.values())


def test_every_member_of_etcd_is_read(patroni: dict[str, Any]) -> None:
    hosts = [one["labels"]["host"] for one in job(patroni, "etcd")["static_configs"]]
    assert hosts == ["fluxdb1", "fluxdb2", "fluxdb3"]
    assert "/etc/prometheus/rules/patroni.yml" in patroni["rule_files"]


def test_without_patroni_nothing_of_it_is_read() -> None:
    found = configuration("flux-ha")
    assert {"patroni", "etcd"}.isdisjoint(one["job_name"] for one in found["scrape_configs"])
    assert "/etc/prometheus/rules/patroni.yml" not in found["rule_files"]
    assert not any("scheme" in one for one in found["scrape_configs"])
