"""The module that takes the vault from step to step: a killed run goes on, and no value is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from module_runner import ROOT, run_module

from stationkeeper.audit.redact import secret_values
from stationkeeper.secrets import files, rotation, vault
from stationkeeper.secrets.vault import SecretsError, folder_of

DECLARED = {
    "redis_flux": {
        "kind": "redis",
        "variable": "secret_one",
        "user": "flux",
        "servers": ["hubs"],
        "clients": {"hubs": ["telemetry_jobs"]},
    }
}
HOSTS = {"all": ["hub", "wlce"], "hubs": ["hub"]}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A system with its vault; each test leaves it settled."""
    home = tmp_path_factory.mktemp("system")
    folder = home / "alpha" / "group_vars" / "all"
    folder.mkdir(parents=True)
    (folder / "secrets.yml.example").write_text("---\nsecret_one: random\nsecret_two: random\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATIONKEEPER_IDENTITY", str(home / "identity"))
        files.initialise(home / "alpha")
    return home / "alpha"


@pytest.fixture
def inventory(system: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATIONKEEPER_IDENTITY", str(system.parent / "identity"))
    return system


def step(tmp_path: Path, inventory: Path, name: str, *, check: bool = False, **more: Any) -> dict[str, Any]:
    arguments = {"inventory": str(inventory), "declared": DECLARED, "hosts": HOSTS, "step": name}
    values = files.read(folder_of(inventory))
    return run_module(
        tmp_path,
        "credential_rotation",
        arguments | {"only": ["redis_flux"]} | more,
        check=check,
        hidden=values["secret_one"],
    )


def test_the_vault_goes_from_step_to_step(tmp_path: Path, inventory: Path) -> None:
    folder = folder_of(inventory)
    old = files.read(folder)
    assert step(tmp_path, inventory, "create", check=True)["changed"] is True
    assert files.read(folder) == old
    created = step(tmp_path, inventory, "create")
    assert created["rotations"]["redis_flux"]["phase"] == "created"
    assert created["rotations"]["redis_flux"]["clients"] == {"hub": ["telemetry_jobs"]}
    # What a killed run does again has no second effect, and a step that is not due none at all.
    following = files.read(folder)["secret_one_next"]
    assert step(tmp_path, inventory, "create")["changed"] is False
    assert step(tmp_path, inventory, "retire")["changed"] is False
    unfinished = step(tmp_path, inventory, "read", only=[])
    assert list(unfinished["rotations"]) == ["redis_flux"]
    switched = step(tmp_path, inventory, "switch")
    assert switched["diff"] == {"before": "redis_flux: created\n", "after": "redis_flux: switched\n"}
    now = files.read(folder)
    assert (now["secret_one"], now["secret_one_before"]) == (following, old["secret_one"])
    assert step(tmp_path, inventory, "retire")["rotations"]["redis_flux"]["phase"] == "settled"
    done = files.read(folder)
    assert done == old | {"secret_one": following, "secret_one_since": done["secret_one_since"]}
    assert vault.is_vault((folder / "secrets.yml").read_text())
    assert step(tmp_path, inventory, "read", only=[])["rotations"] == {}


@pytest.mark.parametrize("name", ["rotations.yml", "security.yml"])
def test_the_audit_takes_no_word_of_the_declarations_for_a_secret(name: str) -> None:
    """It masks every value of a variable that is named like a secret, in every record of every run."""
    declared = yaml.safe_load((ROOT / "inventories/flux/group_vars/all" / name).read_text())
    assert secret_values(declared) == set()


def test_a_name_that_is_not_declared_is_refused(tmp_path: Path, inventory: Path) -> None:
    refused = step(tmp_path, inventory, "create", only=["redis_flx"])
    assert refused["failed"]
    assert "no credential redis_flx" in refused["msg"]


def test_comments_stay_and_a_value_on_several_lines_is_refused(inventory: Path, tmp_path: Path) -> None:
    folder = tmp_path / "beta" / "group_vars" / "all"
    folder.mkdir(parents=True)
    plain = "---\n# What it is for.\nsecret_a: old\nsecret_b: x # why\n"
    (folder / "secrets.yml").write_text(plain)
    assert files.change(folder, lambda values: rotation.create(values, "secret_a", "new"))
    assert (folder / "secrets.yml").read_text() == plain + 'secret_a_next: "new"\n'
    assert not files.change(folder, lambda values: values)
    (folder / "secrets.yml").write_text("secret_a: >-\n  several\n  lines\n")
    with pytest.raises(SecretsError, match="on a line each"):
        files.change(folder, lambda values: values | {"secret_a": "new"})
    assert "several" in (folder / "secrets.yml").read_text()
