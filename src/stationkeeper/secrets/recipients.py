"""Who can open an inventory's vault: age's own file of recipients, each under a line with its name."""

from __future__ import annotations

import re
from collections.abc import Mapping

from stationkeeper.secrets.vault import SecretsError

_HEADER = """\
# Who can open secrets.yml, each under its name: persons and controllers.
# Written by `stationkeeper secrets`; by hand it would not reach vault_password.age.
"""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")
_KEY = re.compile(r"age1[0-9a-z]{58}|ssh-(ed25519|rsa) [A-Za-z0-9+/=]+( .*)?")


def parse(text: str) -> dict[str, str]:
    """Return key by name. Raises SecretsError for a key that has no name, or a name that comes twice."""
    found: dict[str, str] = {}
    name = ""
    for line in text.removeprefix(_HEADER).splitlines():
        if line.startswith("#"):
            name = line.removeprefix("#").strip()
        elif line.strip():
            if not name or name in found:
                raise SecretsError(f"every recipient needs a line `# name` of its own before it: {line}")
            found[name] = line.strip()
            name = ""
    return found


def written(recipients: Mapping[str, str]) -> str:
    """Return the file's text."""
    return _HEADER + "".join(f"# {name}\n{key}\n" for name, key in sorted(recipients.items()))


def with_recipient(recipients: Mapping[str, str], name: str, key: str) -> dict[str, str]:
    """Return the recipients with one more, or with another key of one. Raises SecretsError."""
    if not _NAME.fullmatch(name):
        raise SecretsError(f"{name!r} is no name: letters, digits and . _ @ - only")
    if not _KEY.fullmatch(key):
        raise SecretsError(
            f"{key!r} is no public key: age-keygen -y prints one, or take a line of ssh-ed25519"
        )
    return {**recipients, name: key}


def without_recipient(recipients: Mapping[str, str], name: str) -> dict[str, str]:
    """Return the recipients without one. Raises SecretsError for an unknown name and for the last one."""
    if name not in recipients:
        raise SecretsError(f"{name!r} is no recipient: {', '.join(sorted(recipients))}")
    if len(recipients) == 1:
        raise SecretsError(f"{name!r} is the last recipient: nobody could open the vault any more")
    return {other: key for other, key in recipients.items() if other != name}
