"""Roles of a PostgreSQL cluster that log in with passwords: what differs from what is declared. Pure logic.

A role has one password, which `ALTER ROLE` replaces at once. So a role whose password is rotated has a twin,
``<name>_b``: a member of it, with its rights. One of the two logs in; during a rotation both do, each with
its own password. What the twin creates would be its own, so both are only for roles that own nothing.

Standard library only: Ansible ships this file to the database host.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

TWIN = "_b"
ITERATIONS = 4096
_SALT_BYTES = 16
_VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):(.+)")


class LoginError(ValueError):
    """A declaration that makes no sense; the message names it and the fix."""


@dataclass(frozen=True)
class Login:
    """One role. Without a password it cannot log in over the network, whatever ``login`` says."""

    name: str
    password: str | None = field(default=None, repr=False)
    login: bool = True
    groups: tuple[str, ...] = ()
    #: Whether a role that is there keeps the password that it has.
    keeps_password: bool = False
    replication: bool = False


@dataclass(frozen=True)
class Found:
    """One role as the cluster has it. ``attributes`` are of superuser, createdb, createrole, replication."""

    verifier: str | None = field(repr=False)
    login: bool
    groups: frozenset[str]
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """What is done to one role; None and empty where nothing is."""

    login: Login
    create: bool = False
    may_log_in: bool = False
    may_replicate: bool = False
    loses: tuple[str, ...] = ()
    password: bool = False
    join: tuple[str, ...] = ()

    def told(self) -> list[str]:
        """Return the changes in words, without a secret."""
        words = ["created"] if self.create else []
        if self.may_log_in:
            words.append("may log in" if self.login.login else "may no longer log in")
        if self.may_replicate:
            words.append("may replicate")
        words += [f"loses {attribute}" for attribute in self.loses]
        if self.password:
            words.append("has another password" if self.login.password else "has no password")
        return words + [f"is a member of {group}" for group in self.join]


def names(user: Mapping[str, Any]) -> list[str]:
    """Return the roles that a declaration stands for: one with `password_other` has a twin."""
    return [user["name"]] + ([user["name"] + TWIN] if user.get("password_other") is not None else [])


def logins(users: Iterable[Mapping[str, Any]]) -> list[Login]:
    """Return the roles that declarations stand for, each before its twin. Raises LoginError."""
    found = []
    for user in users:
        name, password, other = user["name"], user.get("password"), user.get("password_other")
        groups, replication = tuple(user.get("groups") or ()), bool(user.get("replication"))
        for given in (password, other):
            if given and not (given.isascii() and given.isprintable()):
                raise LoginError(
                    f"the password of {name} has a character that is not printable ASCII: rotate it"
                )
        if other is None:
            may = user.get("login") is not False
            keeps = password is None
            found.append(
                Login(name, password or None, may, groups, keeps_password=keeps, replication=replication)
            )
            continue
        if not password:
            raise LoginError(f"{name} has password_other, so it needs a password, too")
        if other == password:
            raise LoginError(f"both logins of {name} would have one password, so neither could be refused")
        by_suffix = {"": password, TWIN: other} if not user.get("suffix") else {"": other, TWIN: password}
        found += [
            # Unlike all other rights this one is not had as a member.
            Login(
                name + suffix,
                value or None,
                bool(value),
                (name,) if suffix else groups,
                replication=replication,
            )
            for suffix, value in by_suffix.items()
        ]
    return found


def changes(wanted: Iterable[Login], found: Mapping[str, Found]) -> list[Change]:
    """Return what has to be done for the declared roles. Others, and further memberships, are left alone."""
    return [change for login in wanted for change in [_change(login, found.get(login.name))] if change.told()]


def _change(login: Login, found: Found | None) -> Change:
    if found is None:
        return Change(
            login,
            create=True,
            may_replicate=login.replication,
            password=login.password is not None,
            join=login.groups,
        )
    same = found.verifier is None if login.password is None else matches(found.verifier, login.password)
    return Change(
        login,
        may_log_in=found.login != login.login,
        may_replicate=login.replication and "replication" not in found.attributes,
        loses=tuple(one for one in found.attributes if not (login.replication and one == "replication")),
        password=not (same or login.keeps_password),
        join=tuple(group for group in login.groups if group not in found.groups),
    )


def matches(verifier: str | None, password: str) -> bool:
    """Whether PostgreSQL, which keeps this verifier, would let somebody in with this password."""
    parts = _VERIFIER.fullmatch(verifier or "")
    if parts is None:
        return False
    salt = base64.b64decode(parts[2])
    return hmac.compare_digest(_verifier(password, salt, int(parts[1])), parts[0])


def verifier(password: str) -> str:
    """Return what PostgreSQL keeps of a password (RFC 5803), so that no statement holds the password."""
    return _verifier(password, secrets.token_bytes(_SALT_BYTES), ITERATIONS)


def _verifier(password: str, salt: bytes, iterations: int) -> str:
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${iterations}:{salt64}${stored64}:{server64}"
