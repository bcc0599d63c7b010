"""Create the secrets file of an inventory from its example."""

from __future__ import annotations

import secrets
import string
from pathlib import Path

import yaml

from stationkeeper.files import write_atomically

# Letters and digits only: safe in URLs, ini files, libpq strings, Redis ACL files and shells alike.
_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 40

EXAMPLE = Path("group_vars/all/secrets.yml.example")
TARGET = Path("group_vars/all/secrets.yml")

_HEADER = "---\n# Written by `stationkeeper secrets init`. Never commit this file.\n"


class SecretsError(Exception):
    """The example or the secrets file cannot be used; the message names the file, never a value."""


def initialise(inventory: Path) -> list[str]:
    """Create or complete ``group_vars/all/secrets.yml`` and return the names that were added.

    Values that are there are kept byte for byte. The file is replaced atomically with mode 0600.
    Raises SecretsError when a file is missing or is not a mapping of ``secret_*`` names.
    """
    wanted = _names(inventory / EXAMPLE)
    target = inventory / TARGET
    text = _HEADER
    present: set[str] = set()
    if target.exists():
        present = set(_names(target))
        text = target.read_text(encoding="utf-8")
        if not text.endswith("\n"):
            text += "\n"
    missing = [name for name in wanted if name not in present]
    if missing:
        text += "".join(f"{name}: {_random_value()}\n" for name in missing)
        write_atomically(target, text)
    elif target.stat().st_mode & 0o077:
        target.chmod(0o600)
    return missing


def _names(path: Path) -> list[str]:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SecretsError(f"{path} does not exist") from None
    except yaml.YAMLError:
        # The parser's message quotes the offending line, which may hold a secret.
        raise SecretsError(f"{path} is not valid YAML (an ansible-vault file is edited by hand)") from None
    if not isinstance(loaded, dict):
        raise SecretsError(f"{path} is not a mapping of secret names (ansible-vault file?)")
    wrong = [str(name) for name in loaded if not str(name).startswith("secret_")]
    if wrong:
        raise SecretsError(f"{path}: names must start with secret_, found {', '.join(sorted(wrong))}")
    return [str(name) for name in loaded]


def _random_value() -> str:
    """40 letters and digits (238 bits) that start with a letter, so that YAML reads a string."""
    first = secrets.choice(string.ascii_letters)
    return first + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH - 1))
