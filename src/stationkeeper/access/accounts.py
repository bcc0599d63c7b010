"""Accounts, keys and sudo as their files have them. Pure logic.

Standard library only: Ansible ships this file with the module that uses it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: Debian gives people's accounts numbers from here on; nobody is 65534.
FIRST_PERSON = 1000
_NOBODY = 65534
_NO_SHELL = ("/nologin", "/false", "/sync")
_KEY = re.compile(r"(?:^|\s)((?:ssh|ecdsa|sk)-[a-z0-9@.-]+)\s+([A-Za-z0-9+/=]{40,})")
# Who a line of sudoers is about: a user or, with %, a group. Lines that define something are no such lines.
_GRANT = re.compile(r"^(?!Defaults|User_Alias|Runas_Alias|Host_Alias|Cmnd_Alias|@)(%?[^\s=#:]+)\s+\S+\s*=")


@dataclass(frozen=True)
class Account:
    """One line of /etc/passwd, and whether /etc/shadow has a password for it."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str
    has_password: bool

    @property
    def is_person(self) -> bool:
        """Whether its number is that of a person, and it has a shell."""
        return FIRST_PERSON <= self.uid < _NOBODY and not self.shell.endswith(_NO_SHELL)


def accounts(passwd: str, shadow: str) -> list[Account]:
    """Return the accounts; ``shadow`` tells who has a password (a locked one is none)."""
    hashes = {fields[0]: fields[1] for line in shadow.splitlines() if len(fields := line.split(":")) > 1}
    found = []
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) != 7:
            continue
        name, _, uid, gid, _, home, shell = fields
        found.append(
            Account(name, int(uid), int(gid), home, shell, hashes.get(name, "*")[:1] not in ("*", "!"))
        )
    return found


def fingerprints(text: str) -> list[str]:
    """Return the SHA-256 fingerprint of each key in a file of authorised keys, as ssh prints it."""
    found = []
    for line in text.splitlines():
        match = _KEY.search(line) if not line.lstrip().startswith("#") else None
        if match:
            try:
                digest = hashlib.sha256(base64.b64decode(match[2], validate=True)).digest()
            except binascii.Error:
                continue
            found.append("SHA256:" + base64.b64encode(digest).decode().rstrip("="))
    return found


def members(group: str, known: Iterable[Account]) -> dict[str, set[str]]:
    """Return who is in each group, also by its own number in /etc/passwd."""
    found: dict[str, set[str]] = {}
    numbers: dict[int, str] = {}
    for line in group.splitlines():
        fields = line.split(":")
        if len(fields) == 4:
            found[fields[0]] = set(filter(None, fields[3].split(",")))
            numbers[int(fields[2])] = fields[0]
    for account in known:
        if account.gid in numbers:
            found[numbers[account.gid]].add(account.name)
    return found


def administrators(sudoers: Iterable[str], groups: Mapping[str, set[str]]) -> set[str]:
    """Return who may do anything by sudo, from the texts of its files."""
    found: set[str] = set()
    for text in sudoers:
        for line in text.replace("\\\n", " ").splitlines():
            match = _GRANT.match(line.strip())
            if match:
                name = match[1]
                found |= groups.get(name[1:], set()) if name.startswith("%") else {name}
    return found
