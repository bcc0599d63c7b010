"""Compare who can get at a host, and who did, with what the inventory declares. Pure logic.

Standard library only: Ansible ships this file with the module that uses it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .accounts import Account
from .journal import Login, Told
from .ports import Listener


@dataclass(frozen=True)
class Person:
    """An account that is declared; ``keys`` are fingerprints, None where a role makes them on the hosts."""

    name: str
    keys: tuple[str, ...] | None
    sudo: bool


@dataclass(frozen=True)
class Declared:
    """What may be. ``ports`` has the service of each protocol and port, ``sources`` networks that logins come
    from (empty for any), ``refusals`` how many refused logins from one address are daily life."""

    people: tuple[Person, ...]
    ports: Mapping[tuple[str, int], str]
    sources: tuple[str, ...]
    refusals: int
    certificate_days: float


@dataclass(frozen=True)
class Seen:
    """What is. ``keys`` has the fingerprints of each account, ``certificates`` the days that each is good for
    (None for one that cannot be read)."""

    accounts: Sequence[Account]
    keys: Mapping[str, Sequence[str]]
    administrators: frozenset[str]
    listeners: Sequence[Listener]
    told: Told
    certificates: Mapping[str, float | None]


@dataclass(frozen=True)
class Difference:
    """One difference, with what it is about."""

    about: str
    message: str


def differences(declared: Declared, seen: Seen) -> list[Difference]:
    """Return every difference, the most dangerous kinds first."""
    return [
        *_accounts(declared, seen),
        *_keys(declared, seen),
        *_sudo(declared, seen),
        *_ports(declared, seen),
        *_logins(declared, seen),
        *_certificates(declared, seen),
    ]


def _accounts(declared: Declared, seen: Seen) -> list[Difference]:
    people = {person.name for person in declared.people}
    found = []
    for one in seen.accounts:
        if one.uid == 0 and one.name != "root":
            found.append(f"{one.name} has number 0, which makes it root")
        elif one.is_person and one.name not in people:
            found.append(f"{one.name} is not declared")
        if one.has_password:
            found.append(f"{one.name} has a password; only keys are declared")
    present = {one.name for one in seen.accounts}
    found += [f"{name} is declared, and not there" for name in sorted(people - present)]
    return [Difference("account", message) for message in found]


def _keys(declared: Declared, seen: Seen) -> list[Difference]:
    wanted = {person.name: set(person.keys) for person in declared.people if person.keys is not None}
    made = {person.name for person in declared.people if person.keys is None}
    found = []
    for name in sorted({*wanted, *seen.keys} - made):
        present = set(seen.keys.get(name, ()))
        found += [
            f"{name} has key {key}, which is not declared"
            for key in sorted(present - wanted.get(name, set()))
        ]
        found += [f"{name} lacks the declared key {key}" for key in sorted(wanted.get(name, set()) - present)]
    return [Difference("key", message) for message in found]


def _sudo(declared: Declared, seen: Seen) -> list[Difference]:
    wanted = {person.name for person in declared.people if person.sudo}
    found = [
        f"{name} may use sudo, which is not declared"
        for name in sorted(seen.administrators - wanted - {"root"})
    ]
    found += [f"{name} is to have sudo, and has not" for name in sorted(wanted - seen.administrators)]
    found += [
        f"{name} used sudo {count} times, and is not declared to have it"
        for name, count in sorted(seen.told.sudo.items())
        if name not in wanted | {"root"}
    ]
    found += [
        f"{name} was refused by sudo {count} times" for name, count in sorted(seen.told.sudo_refused.items())
    ]
    return [Difference("sudo", message) for message in found]


def _ports(declared: Declared, seen: Seen) -> list[Difference]:
    present = {(one.protocol, one.port) for one in seen.listeners}
    found = [
        f"{one.program or 'somebody'} listens on {one.port}/{one.protocol}, which is not declared"
        for one in seen.listeners
        if (one.protocol, one.port) not in declared.ports
    ]
    found += [
        f"nobody listens on {port}/{protocol} ({service}), which is declared"
        for (protocol, port), service in sorted(declared.ports.items())
        if (protocol, port) not in present
    ]
    return [Difference("port", message) for message in found]


def _logins(declared: Declared, seen: Seen) -> list[Difference]:
    keys = {person.name: person.keys for person in declared.people}
    found = []
    for login, count in sorted(seen.told.logins.items()):
        problem = _problem(login, keys, declared.sources)
        if problem:
            found.append(f"{login.user} logged in {count} times from {login.source}: {problem}")
    found += [
        f"{count} logins from {address} were refused"
        for address, count in seen.told.refused.most_common()
        if count > declared.refusals
    ]
    return [Difference("login", message) for message in found]


def _problem(login: Login, keys: Mapping[str, Sequence[str] | None], sources: Sequence[str]) -> str:
    if login.by != "publickey":
        return f"by {login.by}, and only keys are declared"
    if login.user not in keys:
        return "this account is not declared"
    known = keys[login.user]
    if known is not None and login.key not in known:
        return f"with key {login.key}, which is not declared"
    if sources and not _is_within(login.source, sources):
        return "that is not where logins come from"
    return ""


def _is_within(address: str, networks: Sequence[str]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in ipaddress.ip_network(network, strict=False) for network in networks)


def _certificates(declared: Declared, seen: Seen) -> list[Difference]:
    found = []
    for path, days in sorted(seen.certificates.items()):
        if days is None:
            found.append(f"{path} is declared, and cannot be read")
        elif days < declared.certificate_days:
            when = f"ended {-days:.0f} days ago" if days < 0 else f"ends {days:.0f} days from now"
            found.append(f"{path} {when}")
    return [Difference("certificate", message) for message in found]
