"""Users of a Redis: the lines of its ACL file, and what the running server has to be told. Pure logic.

Standard library only: Ansible ships this file with the module that uses it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_NOBODY = "user default off"


@dataclass(frozen=True)
class User:
    """One user; each of its passwords is accepted. ``rules`` are in the words of Redis' ACLs."""

    name: str
    passwords: tuple[str, ...]
    rules: str

    @property
    def words(self) -> list[str]:
        """What stands after the name, in the file and in ACL SETUSER. Holds hashes, no password."""
        return ["on", *(f"#{digest}" for digest in self.digests), *self.rules.split()]

    @property
    def digests(self) -> list[str]:
        """What Redis keeps of the passwords: SHA-256 in hexadecimal."""
        return [hashlib.sha256(password.encode()).hexdigest() for password in self.passwords]


def text(users: Iterable[User]) -> str:
    """Return the ACL file; the user `default` is switched off in it."""
    lines = [_NOBODY, *(f"user {user.name} {' '.join(user.words)}" for user in users)]
    return "".join(f"{line}\n" for line in lines)


def names(file: str) -> list[str]:
    """Return the users of an ACL file, without `default`."""
    return [line.split()[1] for line in file.splitlines() if line.startswith("user ") and line != _NOBODY]


def differing(file: str, users: Collection[User], live: Mapping[str, Collection[str] | None]) -> list[str]:
    """Return the users that differ in the file or by their digests in the server, and superfluous ones.

    ``live`` has the digests that the server knows, None for a user that it does not know; empty when it was
    not asked.
    """
    lines = set(file.splitlines())
    changed = [
        user.name
        for user in users
        if f"user {user.name} {' '.join(user.words)}" not in lines
        or (user.name in live and sorted(live[user.name] or ()) != sorted(user.digests))
    ]
    return changed + [name for name in names(file) if name not in {user.name for user in users}]


def commands(changed: Collection[str], users: Iterable[User]) -> list[list[str]]:
    """Return what brings a running server to the declared users. Each is done as a whole or not at all."""
    known = {user.name: user for user in users}
    return [
        ["ACL", "SETUSER", name, "reset", *known[name].words] if name in known else ["ACL", "DELUSER", name]
        for name in changed
    ]


def digests_of(answer: list[Any] | None) -> list[str] | None:
    """Return the digests in an answer to ACL GETUSER; None when there is no such user."""
    if not answer:
        return None
    fields = dict(zip(answer[::2], answer[1::2], strict=True))
    return [digest.decode() for digest in fields[b"passwords"]]
