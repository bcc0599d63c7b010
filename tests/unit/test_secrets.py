"""`stationkeeper secrets`: a vault that its recipients open; nothing is shown, overwritten or lost."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from stationkeeper.secrets import files, rotation
from stationkeeper.secrets.command import run
from stationkeeper.secrets.files import read
from stationkeeper.secrets.vault import NEXT_PASSWORD, folder_of

CLIENT = Path(__file__).parents[2] / "inventories" / "vault-password-client.py"

EXAMPLE = "---\nsecret_one: random\nsecret_two: random\n"


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATIONKEEPER_IDENTITY", str(tmp_path / "home" / "identity"))
    folder = tmp_path / "alpha" / "group_vars" / "all"
    folder.mkdir(parents=True)
    (folder / "secrets.yml.example").write_text(EXAMPLE)
    return tmp_path / "alpha"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A system whose secrets are made, with the identity that opens them: ansible-vault is slow to start."""
    home = tmp_path_factory.mktemp("template")
    folder = home / "alpha" / "group_vars" / "all"
    folder.mkdir(parents=True)
    (folder / "secrets.yml.example").write_text(EXAMPLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATIONKEEPER_IDENTITY", str(home / "home" / "identity"))
        assert run(["init", str(home / "alpha")]) == 0
    return home


@pytest.fixture
def made(template: Path, inventory: Path) -> Path:
    """The inventory, with its secrets."""
    shutil.copytree(template, inventory.parent, dirs_exist_ok=True)
    return inventory


def _target(inventory: Path) -> Path:
    return inventory / "group_vars/all/secrets.yml"


def _values(inventory: Path) -> dict[str, str]:
    return read(folder_of(inventory))


def _other_identity(tmp_path: Path, name: str) -> tuple[Path, str]:
    """Return the identity of another person and its public key."""
    path = tmp_path / name
    subprocess.run(["age-keygen", "-o", path], check=True, capture_output=True)
    key = subprocess.run(["age-keygen", "-y", path], check=True, capture_output=True, text=True).stdout
    return path, key.strip()


def _client(inventory: Path, identity: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Ask the client script as Ansible does."""
    own = {"STATIONKEEPER_IDENTITY": str(identity)} if identity else {}
    environment = {**os.environ, **own, "STATIONKEEPER_INVENTORIES": str(inventory.parent)}
    return subprocess.run(
        [CLIENT, "--vault-id", inventory.name], env=environment, capture_output=True, text=True, check=False
    )


def test_creates_every_name_with_its_own_random_value_in_a_vault(
    inventory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", str(inventory)]) == 0
    values = _values(inventory)
    age = datetime.now(UTC) - datetime.fromisoformat(values.pop("secret_since"))
    assert timedelta() <= age < timedelta(minutes=5)
    assert sorted(values) == ["secret_one", "secret_two"]
    assert len(set(values.values())) == 2
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9]{39}", value) for value in values.values())
    assert _target(inventory).read_text().startswith("$ANSIBLE_VAULT;1.2;AES256;alpha\n")
    assert _target(inventory).stat().st_mode & 0o777 == 0o600
    assert Path(os.environ["STATIONKEEPER_IDENTITY"]).stat().st_mode & 0o777 == 0o600
    output = capsys.readouterr()
    assert not any(value in output.out + output.err for value in values.values())


def test_second_run_changes_nothing_and_a_new_name_is_added(inventory: Path) -> None:
    run(["init", str(inventory)])
    first, values = _target(inventory).read_text(), _values(inventory)
    assert run(["init", str(inventory)]) == 0
    assert _target(inventory).read_text() == first
    (inventory / "group_vars/all/secrets.yml.example").write_text(EXAMPLE + "secret_three: random\n")
    assert run(["init", str(inventory)]) == 0
    assert _values(inventory).items() > values.items()
    assert {"secret_three", "secret_three_since"} < set(_values(inventory))


def test_a_file_in_plain_text_is_encrypted_and_keeps_its_values(inventory: Path) -> None:
    _target(inventory).write_text("secret_one: chosen-by-me # why\nsecret_two: also")
    _target(inventory).chmod(0o644)
    assert run(["init", str(inventory)]) == 0
    assert _target(inventory).stat().st_mode & 0o777 == 0o600
    assert "chosen-by-me" not in _target(inventory).read_text()
    assert _values(inventory) == {"secret_one": "chosen-by-me", "secret_two": "also"}


def test_ansible_opens_it_by_the_client_script(made: Path) -> None:
    done = subprocess.run(
        ["ansible-inventory", "-i", "localhost,", "--playbook-dir", made, "--host", "localhost"],
        env={
            **os.environ,
            "ANSIBLE_VAULT_IDENTITY_LIST": f"alpha@{CLIENT}",
            "STATIONKEEPER_INVENTORIES": str(made.parent),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).items() >= _values(made).items()


def test_a_recipient_is_added_and_removed(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, key = _other_identity(tmp_path, "anna")
    values, password = _values(made), _client(made).stdout
    refused = _client(made, other)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "no identity matched any of the recipients" in refused.stderr
    assert run(["add-recipient", str(made), "anna", key]) == 0
    assert _client(made, other).stdout == password
    assert run(["recipients", str(made)]) == 0
    assert f"anna: {key}" in capsys.readouterr().out
    assert run(["remove-recipient", str(made), "anna"]) == 0
    assert "until it is rotated" in capsys.readouterr().out
    assert _client(made, other).returncode == 2
    # Also with the password that she may have kept.
    assert _client(made).stdout != password
    assert _values(made) == values


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["add-recipient", "ALPHA", "anna", "age1short"], "is no public key"),
        (["add-recipient", "ALPHA", "an na", "age1short"], "is no name"),
        (["add-recipient", "ALPHA", "anna", "age1" + "q" * 58], "age"),
        (["remove-recipient", "ALPHA", "nobody"], "is no recipient"),
        (["remove-recipient", "ALPHA", getpass.getuser()], "is the last recipient"),
    ],
)
def test_refused_recipients_change_nothing(
    made: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in _target(made).parent.iterdir()}
    assert run([str(made) if word == "ALPHA" else word for word in words]) == 1
    assert message in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in _target(made).parent.iterdir()} == before


@pytest.mark.parametrize("killed_at", ["the vault", "the password"])
def test_a_killed_rekey_locks_nobody_out(made: Path, killed_at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = _values(made)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if killed_at == "the vault":
            patch.setattr(files, "_encrypted", killed)
        else:
            patch.setattr(Path, "replace", _only_atomic_writes(Path.replace))
        with pytest.raises(KeyboardInterrupt):
            run(["rekey", str(made)])
    asked = _client(made)
    assert asked.returncode == 2
    assert "stationkeeper secrets rekey" in asked.stderr
    assert run(["rekey", str(made)]) == 0
    assert _values(made) == values
    assert _client(made).returncode == 0
    assert not (folder_of(made) / NEXT_PASSWORD).exists()


def test_a_killed_removal_is_finished_by_a_rekey(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, key = _other_identity(tmp_path, "anna")
    assert run(["add-recipient", str(made), "anna", key]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", _only_atomic_writes(Path.replace))
        with pytest.raises(KeyboardInterrupt):
            run(["remove-recipient", str(made), "anna"])
    assert run(["rekey", str(made)]) == 0
    assert _client(made).returncode == 0
    assert _client(made, other).returncode == 2


def _only_atomic_writes(replace: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
    """The rename of a temporary file happens, that of the next password does not."""

    def replaced(path: Path, target: Path) -> Path:
        if path.name == NEXT_PASSWORD:
            raise KeyboardInterrupt
        return replace(path, target)

    return replaced


def test_the_secrets_of_another_system_are_refused(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = made.with_name("beta")
    shutil.copytree(made, copy)
    assert run(["init", str(copy)]) == 1
    assert "holds the secrets of alpha: delete it" in capsys.readouterr().err


def test_without_an_identity_the_fix_is_named(made: Path, tmp_path: Path) -> None:
    asked = _client(made, tmp_path / "nobody")
    assert asked.returncode == 2
    assert "age-keygen -o" in asked.stderr


def test_a_system_without_a_vault_gets_a_password_that_opens_nothing(inventory: Path) -> None:
    first, second = _client(inventory), _client(inventory)
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stdout != second.stdout


def test_a_value_in_any_version_of_a_file_is_found(
    inventory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = inventory.parent / "clone"
    shutil.copytree(inventory, root / "inventories" / "alpha")
    run(["init", str(root / "inventories" / "alpha")])
    value = _values(root / "inventories" / "alpha")["secret_two"]
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    assert run(["check", str(root)]) == 0
    (root / "notes").write_text(f"the password is {value}\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    (root / "notes").unlink()
    subprocess.run([*git, "commit", "-qam", "y"], check=True)
    capsys.readouterr()
    assert run(["check", str(root)]) == 1
    told = capsys.readouterr().out
    assert "alpha: secret_two is in a version of a file" in told
    assert value not in told
    monkeypatch.setenv("STATIONKEEPER_IDENTITY", str(root / "nobody"))
    assert run(["check", str(root)]) == 0
    assert "not looked for the values of alpha" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("secret_one: [PLANTED\n", "not valid YAML"),
        ("$ANSIBLE_VAULT;1.1;AES256\n3132\n", "identity does not exist"),
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
    # The values of a rotation come and go.
    used = {name for name in used if not name.endswith((rotation.NEXT, rotation.BEFORE, rotation.SUFFIX))}
    assert used <= set(example)
