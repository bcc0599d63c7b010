"""Logins and sudo as the journal has them. Pure logic.

Standard library only: Ansible ships this file with the module that uses it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

_ACCEPTED = re.compile(
    r"^Accepted (?P<by>\S+) for (?P<user>\S+) from (?P<source>\S+) port \d+"
    r"(?: ssh2)?(?:: \S+ (?P<key>SHA256:\S+))?"
)
# One for each attempt; what sshd says besides about the same one is left out.
_REFUSED = re.compile(
    r"^(?:Failed \S+ for (?:invalid user )?\S* from|Invalid user \S* from|Connection (?:closed|reset) by "
    r"(?:authenticating|invalid) user \S*) (?P<source>\S+) port"
)
_SUDO = re.compile(r"^\s*(?P<user>\S+) : (?P<rest>.*)$")
_SUDO_REFUSED = (
    "NOT in sudoers",
    "command not allowed",
    "incorrect password attempt",
    "a password is required",
)


@dataclass(frozen=True, order=True)
class Login:
    """Somebody who was let in: by what (publickey, password), from where, and by which key."""

    user: str
    source: str
    by: str
    key: str


@dataclass
class Told:
    """What a journal tells: how often each login, refusal (by address) and sudo (by user) happened."""

    logins: Counter[Login] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    sudo: Counter[str] = field(default_factory=Counter)
    sudo_refused: Counter[str] = field(default_factory=Counter)


def read(sshd: Iterable[str], sudo: Iterable[str]) -> Told:
    """Add up the lines of sshd and of sudo."""
    told = Told()
    for line in sshd:
        if match := _ACCEPTED.match(line):
            told.logins[Login(match["user"], match["source"], match["by"], match["key"] or "")] += 1
        elif match := _REFUSED.match(line):
            told.refused[match["source"]] += 1
    for line in sudo:
        match = _SUDO.match(line)
        if match and any(words in match["rest"] for words in _SUDO_REFUSED):
            told.sudo_refused[match["user"]] += 1
        elif match and "COMMAND=" in match["rest"]:
            told.sudo[match["user"]] += 1
    return told
