"""Names, addresses and limits of a lab: what boots and what is refused with a clear word."""

from pathlib import Path
from typing import Any

import pytest

from labkit import inventory, naming
from labkit.errors import LabError


@pytest.mark.parametrize("name", ["flux", "fluxtest", "mol-pg", "a", "a23456789012"])
def test_lab_names_that_fit(name: str) -> None:
    assert naming.check_lab_name(name) == name
    assert len(naming.bridge_name(name)) <= 15


@pytest.mark.parametrize("name", ["", "Flux", "1flux", "fl_ux", "a234567890123", "flux-", "fl ux", "fl/ux"])
def test_lab_names_that_cannot_name_a_bridge(name: str) -> None:
    with pytest.raises(LabError, match="cannot name a lab"):
        naming.check_lab_name(name)


@pytest.mark.parametrize("host", ["wlce", "fluxhub", "averylonghostname", "averylonghostname2", "a"])
def test_machine_names_fit_and_differ_between_labs(host: str) -> None:
    names = {naming.machine_name(lab, host) for lab in ("flux", "fluxtest")}
    assert len(names) == 2
    for name in names:
        assert len(name) <= 12
        assert len(naming.port_name(name)) <= 15


def test_long_host_names_with_the_same_start_differ() -> None:
    assert naming.machine_name("flux", "averylonghostname1") != naming.machine_name(
        "flux", "averylonghostname2"
    )


def test_bridge_address_is_local_and_stable() -> None:
    mac = naming.bridge_mac("flux")
    assert mac == naming.bridge_mac("flux")
    assert mac != naming.bridge_mac("fluxtest")
    assert int(mac[:2], 16) & 3 == 2  # locally administered, not multicast


def _build(hosts: dict[str, dict[str, Any]]) -> inventory.Lab:
    return inventory.build("flux", "/inventories/flux", hosts)


def test_hosts_and_gateway() -> None:
    lab = _build({"wlce": {"ansible_host": "10.78.10.21"}, "fluxdb": {"ansible_host": "10.78.10.11"}})
    assert [host.name for host in lab.hosts] == ["fluxdb", "wlce"]
    assert lab.network == "10.78.10.0/24"
    assert lab.gateway == "10.78.10.1"
    with pytest.raises(LabError, match="no host 'x'; its hosts are: fluxdb, wlce"):
        lab.host("x")


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ({"a": {}}, "a: ansible_host must be a literal"),
        ({"a": {"ansible_host": "a.example"}}, "must be a literal"),
        ({"a": {"ansible_host": "{{ x }}"}}, "must be a literal"),
        ({"a": {"ansible_host": "fd00::1"}}, "must be a literal"),
        ({"a": {"ansible_host": "8.8.8.8"}}, "not in a private network"),
        ({"a": {"ansible_host": "10.78.10.1"}}, "taken"),
        ({"a": {"ansible_host": "10.78.10.255"}}, "taken"),
        ({"a": {"ansible_host": "10.78.10.2"}, "b": {"ansible_host": "10.78.10.2"}}, "the same address"),
        ({"a": {"ansible_host": "10.78.10.2"}, "b": {"ansible_host": "10.78.11.2"}}, "one /24"),
        ({"a_b": {"ansible_host": "10.78.10.2"}}, "cannot name a host"),
        ({"a": {"ansible_host": "10.78.10.2", "lab_disk_mb": "big"}}, "lab_disk_mb must be a whole number"),
        ({"a": {"ansible_host": "10.78.10.2", "lab_memory_mb": 1}}, "lab_memory_mb .* at least 64"),
        ({"a": {"ansible_host": "10.78.10.2", "lab_memory_mb": True}}, "lab_memory_mb"),
        ({}, "names no host"),
    ],
)
def test_what_cannot_boot_is_refused(hosts: dict[str, dict[str, Any]], words: str) -> None:
    with pytest.raises(LabError, match=words):
        _build(hosts)


HOSTS = """
all:
  vars: {lab_memory_mb: 200}
  children:
    stations:
      vars: {lab_disk_mb: 400}
      hosts:
        wlce: {ansible_host: 10.78.10.21, lab_disk_mb: 800}
        hmce: {ansible_host: 10.78.10.22}
    databases:
      hosts:
        fluxdb: {ansible_host: 10.78.10.11}
    everything:
      children: {stations: {}}
      hosts: {wlce: }
"""


def test_read_takes_the_name_of_the_folder_and_group_variables(tmp_path: Path) -> None:
    folder = tmp_path / "flux"
    folder.mkdir()
    (folder / "hosts.yml").write_text(HOSTS)
    lab = inventory.read(str(folder))
    assert lab == inventory.read(str(folder / "hosts.yml"))
    assert lab.name == "flux"
    limits = {host.name: (host.disk_mb, host.memory_mb) for host in lab.hosts}
    assert limits == {"wlce": (800, 200), "hmce": (400, 200), "fluxdb": (None, 200)}


def test_a_folder_without_hosts_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"hosts\.yml does not exist"):
        inventory.read(str(tmp_path))


def test_broken_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("all: [")
    with pytest.raises(LabError, match="not valid YAML"):
        inventory.read(str(tmp_path))
