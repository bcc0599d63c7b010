"""Files and the cache lost on real hosts, and brought back; seen by sha256sum, systemd and redis-cli."""

from __future__ import annotations

import re

from system import LabSystem

HUB = "fluxhub"
CONFIGURATION = "/etc/bess_controller/config.yaml"
# Keys of nobody's job: the hot tier's are made anew meanwhile.
KEYS = 500


def redis(system: LabSystem, *command: str) -> str:
    """Ask Redis by its own client, on the hub, as its administrator."""
    environment = f"REDISCLI_AUTH={system.secrets['secret_redis_admin_password']}"
    done = system.on_host(HUB, "env", environment, "redis-cli", "--user", "admin", *command, check=False)
    # Not by `check`, which would show the password.
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def shell(system: LabSystem, host: str, command: str) -> str:
    """Run a line as root on a host."""
    return system.on_host(host, "bash", "-c", command).stdout.strip()


def values(system: LabSystem) -> str:
    """What Redis has under the keys of this test."""
    return redis(system, "MGET", *(f"lost:{number}" for number in range(KEYS)))


def figure(system: LabSystem, host: str, name: str, kind: str) -> float:
    """A figure as Prometheus gets it from the host's exporter."""
    told = system.run("curl", "-fsS", f"http://{system.addresses[host]}:9100/metrics").stdout
    found = re.search(rf'^stationkeeper_backup_{name}{{kind="{kind}"}} (\S+)', told, re.MULTILINE)
    assert found, f"{host} does not export {name} of {kind}"
    return float(found[1])


def test_a_stations_files_are_lost_and_come_back(flux_ha: LabSystem) -> None:
    station = flux_ha.stations[0]
    saved = flux_ha.playbook("files_backup", {"target": station, "reason": "test"})
    assert saved.code == 0, saved.output
    assert figure(flux_ha, station, "last_run_success", "files") == 1
    before = shell(flux_ha, station, f"sha256sum {CONFIGURATION}; stat -c '%U %G %a' {CONFIGURATION}")

    shell(flux_ha, station, "systemctl stop bess_controller; rm -rf /etc/bess_controller")
    lost = flux_ha.playbook("files_backup", {"target": station, "reason": "test"})
    assert lost.code != 0
    assert "is gone" in lost.output
    assert figure(flux_ha, station, "last_run_success", "files") == 0

    inputs = {"target": station, "reason": "test", "sets": ["station"], "in_place": True}
    refused = flux_ha.playbook("files_restore", inputs)
    assert refused.code != 0
    assert "nothing was touched" in refused.output
    done = flux_ha.playbook("files_restore", {**inputs, "confirm_in_place": station})
    assert done.code == 0, done.output
    assert shell(flux_ha, station, f"sha256sum {CONFIGURATION}; stat -c '%U %G %a' {CONFIGURATION}") == before
    shell(flux_ha, station, "systemctl start bess_controller")
    flux_ha.wait(
        "the controller is in charge again",
        lambda: shell(flux_ha, station, "systemctl is-active bess_controller || true") == "active",
        60,
    )


def test_redis_is_killed_with_its_data_and_comes_back(flux_ha: LabSystem) -> None:
    redis(
        flux_ha, "MSET", *(word for number in range(KEYS) for word in (f"lost:{number}", f"value {number}"))
    )
    before = values(flux_ha)
    assert before.endswith("value 499")
    saved = flux_ha.playbook("cache_backup", {"target": HUB, "reason": "test"})
    assert saved.code == 0, saved.output

    shell(
        flux_ha,
        HUB,
        "systemctl kill -s KILL redis-server; systemctl stop redis-server; "
        "rm -rf /var/lib/redis/*; systemctl start redis-server",
    )
    flux_ha.wait("Redis answers", lambda: redis(flux_ha, "PING") == "PONG", 30)
    assert redis(flux_ha, "EXISTS", "lost:1") == "0"
    done = flux_ha.playbook("cache_restore", {"target": HUB, "confirm": HUB, "reason": "test"})
    assert done.code == 0, done.output
    assert values(flux_ha) == before
    # As every later start: from its append-only file.
    shell(flux_ha, HUB, "systemctl restart redis-server")
    flux_ha.wait("Redis answers", lambda: redis(flux_ha, "PING") == "PONG", 30)
    assert values(flux_ha) == before
    redis(flux_ha, "DEL", *(f"lost:{number}" for number in range(KEYS)))
    shell(flux_ha, HUB, "rm -rf /var/lib/redis.before-*")
