"""The secrets of an inventory: one vault, its password, and who can open it."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import secrets
import string
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import yaml

from stationkeeper.files import write_atomically
from stationkeeper.secrets import vault
from stationkeeper.secrets.recipients import parse, with_recipient, without_recipient, written
from stationkeeper.secrets.rotation import SINCE
from stationkeeper.secrets.vault import (
    NEXT_PASSWORD,
    PASSWORD,
    RECIPIENTS,
    SECRETS,
    SecretsError,
    folder_of,
    label_of,
)

# Letters and digits only: safe in URLs, ini files, libpq strings, Redis ACL files and shells alike.
_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 40

EXAMPLE = "secrets.yml.example"

_HEADER = "---\n# Written by `stationkeeper secrets init`; `ansible-vault edit` changes it.\n"


def initialise(inventory: Path) -> list[str]:
    """Create or complete the vault ``group_vars/all/secrets.yml`` and return the names that were added.

    Values that are there are kept byte for byte; a file in plain text is encrypted. Where nobody is a
    recipient yet, the caller becomes one, with a new identity if need be. Raises SecretsError.
    """
    folder = folder_of(inventory)
    wanted = _names(folder / EXAMPLE, _read(folder / EXAMPLE))
    with _locked(folder):
        return _completed(folder, wanted)


def _completed(folder: Path, wanted: list[str]) -> list[str]:
    _finish_rekey(folder)
    path = folder / SECRETS
    present = path.read_text(encoding="utf-8") if path.exists() else ""
    text = _decrypted(folder, present) if vault.is_vault(present) else present or _HEADER
    known = set(_names(path, text)) if present else set()
    missing = [name for name in wanted if name not in known]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if missing or not vault.is_vault(present):
        if not text.endswith("\n"):
            text += "\n"
        # Since when all of them are, or one that came later: docs/secrets.md tells how old each may become.
        if not present:
            text += f"secret{SINCE}: {json.dumps(now)}\n"
        for name in missing:
            text += f"{name}: {random_value()}\n" + (f"{name}{SINCE}: {json.dumps(now)}\n" if present else "")
        write_atomically(path, _encrypted(folder, text, _password(folder)))
    return missing


def read(folder: Path) -> dict[str, str]:
    """Return every secret in a folder (`folder_of` an inventory) by its name. Raises SecretsError."""
    text = _read(folder / SECRETS)
    return _values(folder / SECRETS, _decrypted(folder, text) if vault.is_vault(text) else text)


def change(folder: Path, edit: Callable[[dict[str, str]], dict[str, str]], *, dry_run: bool = False) -> bool:
    """Change values of the vault as one step, and return whether any was; comments and other lines stay.

    ``edit`` gets every value by its name. Raises SecretsError: then nothing was written.
    """
    path = folder / SECRETS
    with _locked(folder):
        stored = _read(path)
        text = _decrypted(folder, stored) if vault.is_vault(stored) else stored
        before = _values(path, text)
        after = edit(before)
        if after == before:
            return False
        changed = _with_values(text, before, after)
        if not _has(changed, after):
            raise SecretsError(
                f"{path} is not one `name: value` on a line each: write it so with `ansible-vault edit`"
            )
        if not dry_run:
            encrypted = vault.is_vault(stored)
            write_atomically(path, _encrypted(folder, changed, _password(folder)) if encrypted else changed)
    return True


def _has(text: str, values: Mapping[str, str]) -> bool:
    """Whether a text that was put together has exactly these values."""
    try:
        return _values(Path(SECRETS), text) == values
    except SecretsError:
        return False


def _with_values(text: str, before: Mapping[str, str], after: Mapping[str, str]) -> str:
    lines = []
    for line in text.splitlines():
        name = line.partition(":")[0]
        if name not in before or after.get(name) == before[name]:
            lines.append(line)
        elif name in after:
            lines.append(f"{name}: {json.dumps(after[name])}")
    lines += [f"{name}: {json.dumps(value)}" for name, value in after.items() if name not in before]
    return "".join(f"{line}\n" for line in lines)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other changes of the vault away; two of them would lose one's values."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def recipients(inventory: Path) -> dict[str, str]:
    """Return the public key of each recipient by its name. Raises SecretsError."""
    return parse(_read(folder_of(inventory) / RECIPIENTS))


def add_recipient(inventory: Path, name: str, key: str) -> None:
    """Let one more person or controller open the vault. Raises SecretsError."""
    folder = folder_of(inventory)
    after = with_recipient(recipients(inventory), name, key)
    with _locked(folder):
        # First what counts, then the list of it: a killed run is finished by the next one.
        vault.write_password(folder / PASSWORD, vault.read_password(folder), after.values())
        _write_recipients(folder, after)


def remove_recipient(inventory: Path, name: str) -> None:
    """Keep somebody from opening the vault from now on: it gets another password. Raises SecretsError.

    What the vault holds was known to them: only a rotation makes that worthless.
    """
    folder = folder_of(inventory)
    with _locked(folder):
        _rekey(folder, without_recipient(recipients(inventory), name))


def rekey(inventory: Path) -> None:
    """Give the vault another password; a killed run is finished by the next one. Raises SecretsError."""
    folder = folder_of(inventory)
    with _locked(folder):
        _rekey(folder, recipients(inventory))


def _rekey(folder: Path, allowed: Mapping[str, str]) -> None:
    _finish_rekey(folder)
    text = _decrypted(folder, _read(folder / SECRETS))
    password = random_value()
    vault.write_password(folder / NEXT_PASSWORD, password, allowed.values())
    # While Ansible is refused: a killed removal is finished by the next rekey, which takes this list.
    _write_recipients(folder, allowed)
    write_atomically(folder / SECRETS, _encrypted(folder, text, password))
    (folder / NEXT_PASSWORD).replace(folder / PASSWORD)


def _finish_rekey(folder: Path) -> None:
    """Keep whichever of two passwords opens the vault."""
    following = folder / NEXT_PASSWORD
    if not following.exists():
        return
    text = _read(folder / SECRETS)
    try:
        _vault(folder, "decrypt", text, vault.read_password(folder, NEXT_PASSWORD))
    except SecretsError:
        # It must not be lost while nothing else opens the vault.
        _vault(folder, "decrypt", text, vault.read_password(folder))
        following.unlink()
    else:
        following.replace(folder / PASSWORD)


def _write_recipients(folder: Path, allowed: Mapping[str, str]) -> None:
    write_atomically(folder / RECIPIENTS, written(allowed), mode=0o644)


def _password(folder: Path) -> str:
    """Return the vault's password; where there is none, make one for the recipients, or for the caller."""
    if (folder / PASSWORD).exists():
        return vault.read_password(folder)
    if not (folder / RECIPIENTS).exists():
        _write_recipients(folder, with_recipient({}, getpass.getuser(), vault.create_identity()))
    password = random_value()
    vault.write_password(folder / PASSWORD, password, parse(_read(folder / RECIPIENTS)).values())
    return password


def _decrypted(folder: Path, text: str) -> str:
    label = text.splitlines()[0].split(";")[3:]
    if label and label[0] != label_of(folder):
        raise SecretsError(
            f"{folder / SECRETS} holds the secrets of {label[0]}: delete it and {PASSWORD}, and "
            f"`stationkeeper secrets init` makes those of {label_of(folder)}"
        )
    return _vault(folder, "decrypt", text, vault.read_password(folder))


def _encrypted(folder: Path, text: str, password: str) -> str:
    return _vault(folder, "encrypt", text, password, "--encrypt-vault-id", label_of(folder))


def _vault(folder: Path, verb: str, text: str, password: str, *options: str) -> str:
    """Run ansible-vault; the password goes through a pipe, where no process list shows it."""
    readable, writable = os.pipe()
    with os.fdopen(readable), os.fdopen(writable, "w") as pipe:
        pipe.write(password)
        pipe.close()
        done = subprocess.run(
            [
                Path(sys.executable).with_name("ansible-vault"),
                verb,
                *("--vault-id", f"{label_of(folder)}@/dev/fd/{readable}"),
                *options,
                "--output=-",
                "-",
            ],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            pass_fds=[readable],
            # This password and none of those that ansible.cfg names.
            env={**os.environ, "ANSIBLE_VAULT_IDENTITY_LIST": ""},
        )
    if done.returncode != 0:
        raise SecretsError(f"{folder / SECRETS} cannot be {verb}ed with the password in {PASSWORD}")
    return done.stdout


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SecretsError(f"{path} does not exist") from None


def _values(path: Path, text: str) -> dict[str, str]:
    _names(path, text)
    return {str(name): str(value) for name, value in yaml.safe_load(text).items()}


def _names(path: Path, text: str) -> list[str]:
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError:
        # The parser's message quotes the offending line, which may hold a secret.
        raise SecretsError(f"{path} is not valid YAML") from None
    if not isinstance(loaded, dict):
        raise SecretsError(f"{path} is not a mapping of secret names")
    wrong = [str(name) for name in loaded if not str(name).startswith("secret_")]
    if wrong:
        raise SecretsError(f"{path}: names must start with secret_, found {', '.join(sorted(wrong))}")
    return [str(name) for name in loaded]


def random_value() -> str:
    """40 letters and digits (238 bits) that start with a letter, so that YAML reads a string."""
    first = secrets.choice(string.ascii_letters)
    return first + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH - 1))
