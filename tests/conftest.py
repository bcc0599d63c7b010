"""Every ring: criteria in the report. Ring 4: whole systems in the lab, from bare hosts."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from system import ROOT, LabSystem


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the criteria that a test proves into the report, for tests/criteria.py."""
    for item in items:
        for marker in item.iter_markers("criterion"):
            item.user_properties += [("criterion", number) for number in marker.args]


def copy_inventory(source: str, prefix: str, target: Path) -> None:
    """Copy an inventory as a user would for a system of their own, with addresses of another prefix."""
    shutil.rmtree(target, ignore_errors=True)
    # Links are followed: the copy stands on its own.
    shutil.copytree(
        ROOT / "inventories" / source, target, ignore=shutil.ignore_patterns("secrets.yml", "vault_*")
    )
    hosts = target / "hosts.yml"
    hosts.write_text(re.sub(r"\b10\.78\.\d+\.", prefix, hosts.read_text()))


def booted(source: str, lab: str, prefix: str) -> Iterator[LabSystem]:
    """Boot the hosts of a copied inventory, and end them afterwards.

    STATIONKEEPER_KEEP_LAB=1 leaves them up and uses them again, for work on a single test.
    """
    keep = os.environ.get("STATIONKEEPER_KEEP_LAB") == "1"
    state = ROOT / ".state" / lab
    # The tests' own, not that of whoever runs them.
    os.environ["STATIONKEEPER_IDENTITY"] = str(state / "identity")
    inventory = state / lab
    system = LabSystem(inventory, state)
    if not (keep and inventory.exists()):
        if inventory.exists():
            system.labctl("down", "--purge", check=False)
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True, mode=0o700)
        copy_inventory(source, prefix, inventory)
    system.run("stationkeeper", "secrets", "init", inventory)
    up = system.labctl("up", check=False)
    assert up.returncode == 0, up.stdout + up.stderr
    yield system
    if not keep:
        system.labctl("down", "--purge")


@pytest.fixture(scope="session")
def flux() -> Iterator[LabSystem]:
    """The booted hosts, still bare: the first test module previews and converges them."""
    yield from booted("flux", "fluxtest", "10.78.20.")


@pytest.fixture(scope="session")
def flux_ha() -> Iterator[LabSystem]:
    """The booted hosts of a system with a standby and a host for backups, still bare."""
    yield from booted("flux-ha", "fluxhatest", "10.78.21.")
