"""Updates come in waves: each host proves itself before the next, and what was replaced is used no more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from system import LabSystem

# A package that has a security update, and a service that uses a library of it.
REPOSITORY = """
set -e
mkdir -p /srv/updates/build/DEBIAN && cd /srv/updates
for version in 1 2; do
  { printf 'Package: stationkeeper-test\\nVersion: %s\\n' $version
    printf 'Architecture: all\\nMaintainer: test\\nDescription: test\\n'; } > build/DEBIAN/control
  mkdir -p build/usr/lib/stationkeeper-test
  echo $version > build/usr/lib/stationkeeper-test/library
  dpkg-deb --build build stationkeeper-test_${version}_all.deb
done
dpkg -i stationkeeper-test_1_all.deb
file=stationkeeper-test_2_all.deb
{ dpkg-deb --field $file
  printf 'Filename: ./%s\\nSize: %s\\n' $file $(stat -c %s $file)
  printf 'SHA256: %s\\n' $(sha256sum $file | cut -d' ' -f1); } > Packages
printf 'Label: Debian-Security\\nSuite: stable-security\\nSHA256:\\n %s %s Packages\\n' \
  $(sha256sum Packages | cut -d' ' -f1) $(stat -c %s Packages) > Release
echo 'deb [trusted=yes] file:/srv/updates ./' > /etc/apt/sources.list.d/stationkeeper-test.list
apt-get update -qq
systemd-run --unit=uses_library python3 -c \
  "import mmap, time; f = open('/usr/lib/stationkeeper-test/library', 'rb'); \
m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ); time.sleep(3600)"
"""
REMOVED = """
systemctl stop uses_library
systemctl reset-failed uses_library
rm -rf /etc/apt/sources.list.d/stationkeeper-test.list /srv/updates
dpkg --purge stationkeeper-test
apt-get update -qq
"""


def version(system: LabSystem, host: str) -> str:
    return system.on_host(host, "dpkg-query", "-W", "-f=${Version}", "stationkeeper-test").stdout


@pytest.fixture
def outdated(flux_ha: LabSystem) -> Iterator[tuple[str, str]]:
    """Two hosts with an update that waits, in the order in which they get it."""
    hosts = flux_ha.stations[0], flux_ha.hosts("backups")[0]
    for host in hosts:
        flux_ha.on_host(host, "sh", "-c", REPOSITORY)
    yield hosts
    for host in hosts:
        flux_ha.on_host(host, "sh", "-c", REMOVED, check=False)


def test_updates_come_in_waves_and_stop_at_a_host_that_does_not_prove_itself(
    flux_ha: LabSystem, outdated: tuple[str, str]
) -> None:
    first, second = outdated
    wish = {"target": f"{first},{second}", "reason": "test"}
    flux_ha.on_host(first, "systemctl", "mask", "--runtime", "--now", "prometheus-node-exporter")
    try:
        failed = flux_ha.playbook("security_patch", wish)
    finally:
        flux_ha.on_host(first, "systemctl", "unmask", "--runtime", "prometheus-node-exporter")
        flux_ha.on_host(first, "systemctl", "start", "prometheus-node-exporter")
    assert failed.code != 0
    assert f"{first} did not get through" in failed.output
    assert [version(flux_ha, host) for host in outdated] == ["2", "1"]

    flux_ha.on_host(second, "touch", "/run/reboot-required")
    boots = "journalctl --list-boots --quiet | wc -l"
    before = int(flux_ha.on_host(second, "sh", "-c", boots).stdout)
    done = flux_ha.playbook("security_patch", wish)
    assert done.code == 0, done.output[-5000:]
    assert version(flux_ha, second) == "2"
    assert int(flux_ha.on_host(second, "sh", "-c", boots).stdout) == before + 1
    # Restarted in the run that failed, with what it installed.
    assert "uses_library" not in done.output
    assert "0 updates installed" in done.output
    figure = 'stationkeeper_updates_pending{scope="security"}'
    flux_ha.wait("the figures", lambda: len(flux_ha.measured(figure)) == 2, timeout_s=60)
    assert {sample["value"][1] for sample in flux_ha.measured(figure)} == {"0"}
