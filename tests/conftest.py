"""Every ring: criteria in the report. Ring 4: one whole system in the lab, from bare hosts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from system import ROOT, LabSystem

FLUX_PREFIX = "10.78.10."
TEST_PREFIX = "10.78.20."
LAB = "fluxtest"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the criteria that a test proves into the report, for tests/criteria.py."""
    for item in items:
        for marker in item.iter_markers("criterion"):
            item.user_properties += [("criterion", number) for number in marker.args]


def copy_inventory(target: Path) -> None:
    """Copy inventories/flux as a user would for a system of their own, with other addresses."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "inventories" / "flux", target, ignore=shutil.ignore_patterns("secrets.yml"))
    hosts = target / "hosts.yml"
    hosts.write_text(hosts.read_text().replace(FLUX_PREFIX, TEST_PREFIX))


@pytest.fixture(scope="session")
def flux() -> Iterator[LabSystem]:
    """The booted hosts, still bare: the first test module previews and converges them.

    STATIONKEEPER_KEEP_LAB=1 leaves them up and uses them again, for work on a single test.
    """
    keep = os.environ.get("STATIONKEEPER_KEEP_LAB") == "1"
    state = ROOT / ".state" / "ring4"
    inventory = state / LAB
    system = LabSystem(inventory, state)
    if not (keep and inventory.exists()):
        if inventory.exists():
            system.labctl("down", "--purge", check=False)
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True, mode=0o700)
        copy_inventory(inventory)
    system.run("stationkeeper", "secrets", "init", inventory)
    up = system.labctl("up", check=False)
    assert up.returncode == 0, up.stdout + up.stderr
    yield system
    if not keep:
        system.labctl("down", "--purge")
