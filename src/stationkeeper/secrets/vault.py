"""The password of an inventory's vault: in an age file beside it, readable by each of its recipients.

Standard library only: `inventories/vault-password-client.py` runs under whatever Python there is.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection
from pathlib import Path

from stationkeeper.files import write_atomically

SECRETS = "secrets.yml"
PASSWORD = "vault_password.age"  # noqa: S105 (a file's name)
#: There from the start of a change of the password until the vault has it.
NEXT_PASSWORD = "vault_password.age.next"  # noqa: S105 (likewise)
RECIPIENTS = "vault_recipients.txt"
_MARK = "$ANSIBLE_VAULT;"


class SecretsError(Exception):
    """Secrets cannot be read or written; the message names the file and the fix, never a value."""


def folder_of(inventory: Path) -> Path:
    """Return where an inventory's secrets lie; inventories that share group_vars share them."""
    return (inventory / "group_vars" / "all").resolve()


def label_of(folder: Path) -> str:
    """Return the vault id, which is the name of the system."""
    return folder.parents[1].name


def is_vault(text: str) -> bool:
    """Whether a file's text is encrypted by ansible-vault."""
    return text.startswith(_MARK)


def identity_path() -> Path:
    """Return this person's or controller's age identity: ``$STATIONKEEPER_IDENTITY`` or the one at home."""
    named = os.environ.get("STATIONKEEPER_IDENTITY")
    return Path(named) if named else Path.home() / ".config" / "stationkeeper" / "identity"


def create_identity() -> str:
    """Create the identity where there is none, and return its public key. Raises SecretsError."""
    path = identity_path()
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Written here and not by age-keygen, so that it is there whole or not at all.
        write_atomically(path, _age("age-keygen"))
    return _age("age-keygen", "-y", str(path)).strip()


def read_password(folder: Path, name: str = PASSWORD) -> str:
    """Return the vault's password. Raises SecretsError."""
    path, identity = folder / name, identity_path()
    if not identity.exists():
        raise SecretsError(
            f"{identity} does not exist: `age-keygen -o {identity}` makes your identity, then somebody who "
            f"can open {folder / SECRETS} adds you by `stationkeeper secrets add-recipient`"
        )
    return _age("age", "--decrypt", "--identity", str(identity), str(path)).strip()


def write_password(path: Path, password: str, keys: Collection[str]) -> None:
    """Write the password for the owners of public keys. Raises SecretsError: then the file is as before."""
    recipients = [option for key in keys for option in ("--recipient", key)]
    armoured = _age("age", "--encrypt", "--armor", *recipients, text=password + "\n")
    # Its recipients alone can read it, so that it can stand in git.
    write_atomically(path, armoured, mode=0o644)


def _age(program: str, *arguments: str, text: str = "") -> str:
    try:
        done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SecretsError(f"{program} is not there: apt install age") from None
    if done.returncode != 0:
        said = " ".join(line.removeprefix("age: ") for line in done.stderr.splitlines()[:1])
        raise SecretsError(f"{program} {arguments[-1]}: {said}")
    return done.stdout
