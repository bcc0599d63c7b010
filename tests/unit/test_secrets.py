"""`stationkeeper secrets init`: creates what is missing, shows and overwrites nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from stationkeeper.secrets.command import run

EXAMPLE = "---\nsecret_one: random\nsecret_two: random\n"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    folder = tmp_path / "group_vars" / "all"
    folder.mkdir(parents=True)
    (folder / "secrets.yml.example").write_text(EXAMPLE)
    return tmp_path


def _target(inventory: Path) -> Path:
    return inventory / "group_vars/all/secrets.yml"


def test_creates_every_name_with_its_own_random_value(
    inventory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", str(inventory)]) == 0
    values = yaml.safe_load(_target(inventory).read_text())
    assert sorted(values) == ["secret_one", "secret_two"]
    assert len(set(values.values())) == 2
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9]{39}", value) for value in values.values())
    assert _target(inventory).stat().st_mode & 0o777 == 0o600
    output = capsys.readouterr()
    assert not any(value in output.out + output.err for value in values.values())


def test_second_run_changes_nothing_and_a_new_name_is_added(inventory: Path) -> None:
    run(["init", str(inventory)])
    first = _target(inventory).read_text()
    assert run(["init", str(inventory)]) == 0
    assert _target(inventory).read_text() == first
    (inventory / "group_vars/all/secrets.yml.example").write_text(EXAMPLE + "secret_three: random\n")
    assert run(["init", str(inventory)]) == 0
    assert _target(inventory).read_text().startswith(first)
    assert "secret_three" in yaml.safe_load(_target(inventory).read_text())


def test_keeps_a_value_of_the_operator_and_closes_an_open_file(inventory: Path) -> None:
    _target(inventory).write_text("secret_one: chosen-by-me # why\nsecret_two: also")
    _target(inventory).chmod(0o644)
    assert run(["init", str(inventory)]) == 0
    assert _target(inventory).read_text() == "secret_one: chosen-by-me # why\nsecret_two: also"
    assert _target(inventory).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("secret_one: [PLANTED\n", "not valid YAML"),
        ("$ANSIBLE_VAULT;1.1;AES256\n3132\n", "mapping"),
        ("password: PLANTED\n", "must start with secret_"),
    ],
)
def test_refuses_a_file_it_does_not_understand(
    inventory: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _target(inventory).write_text(content)
    assert run(["init", str(inventory)]) == 1
    assert _target(inventory).read_text() == content
    error = capsys.readouterr().err
    assert message in error
    assert "PLANTED" not in error


def test_missing_example_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", str(tmp_path)]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_the_flux_example_names_every_secret_the_inventory_uses() -> None:
    root = Path(__file__).parents[2]
    example = yaml.safe_load((root / "inventories/flux/group_vars/all/secrets.yml.example").read_text())
    used: set[str] = set()
    for path in (root / "inventories/flux").rglob("*.yml"):
        if path.name != "secrets.yml":
            used |= set(re.findall(r"\bsecret_[a-z0-9_]+", path.read_text()))
    assert used <= set(example)
