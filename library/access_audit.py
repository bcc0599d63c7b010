#!/usr/bin/python
"""Ansible module: compare who can get at a host, and who did, with what is declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: access_audit
short_description: Compare the access to a host with what is declared
description:
  - Runs on the host, as root, and changes nothing. Compares accounts, authorised keys, sudo, listening ports,
    logins and certificates with what the inventory declares.
  - A difference is a result, not a failure of the module. Words of commands that sudo ran are not returned.
version_added: "0.6.0"
author: Stationkeeper
options:
  people:
    description: The accounts that may log in.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the account.
        type: str
        required: true
      keys:
        description: Its public keys. Not judged when left out, for keys that a role makes on the hosts.
        type: list
        elements: str
      sudo:
        description: Whether it may do anything by sudo.
        type: bool
        default: false
  ports:
    description: What other hosts may find listening. Loopback addresses do not count.
    type: list
    elements: dict
    required: true
    suboptions:
      port:
        description: Its number.
        type: int
        required: true
      protocol:
        description: Its protocol.
        type: str
        choices: [tcp, udp]
        default: tcp
      service:
        description: What listens, for people.
        type: str
        required: true
  sources:
    description: Networks that logins come from; any when empty.
    type: list
    elements: str
    default: []
  certificates:
    description: Files with a certificate that this host serves.
    type: list
    elements: path
    default: []
  certificate_days:
    description: A certificate that ends sooner is a difference.
    type: float
    default: 30
  since_days:
    description: How far back logins and sudo are read in the journal.
    type: float
    default: 7
  refusals:
    description: As many refused logins from one address are no difference.
    type: int
    default: 20
attributes:
  check_mode:
    description: Reads only, so it does the same.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Compare the access with what is declared
  access_audit:
    people: [{name: ops, keys: ["ssh-ed25519 AAAA…"], sudo: true}]
    ports: [{port: 22, service: ssh}]
"""

RETURN = r"""
differences:
  description: What is not as declared; about says account, key, sudo, port, login or certificate.
  returned: success
  type: list
  elements: dict
  sample: [{about: port, message: "nc listens on 4444/tcp, which is not declared"}]
seen:
  description: >-
    How many accounts, keys and ports there are, how often each account logged in and used sudo, and refused
    logins by address.
  returned: success
  type: dict
journal_from:
  description: The oldest line that the journal has (RFC 3339); nothing is known of the time before.
  returned: success
  type: str
"""

import re
import subprocess
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.access import accounts as files
from ansible.module_utils.stationkeeper.access import journal
from ansible.module_utils.stationkeeper.access.judge import Declared, Person, Seen, differences
from ansible.module_utils.stationkeeper.access.ports import listeners


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "people": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "keys": {"type": "list", "elements": "str", "no_log": False},
                    "sudo": {"type": "bool", "default": False},
                },
            },
            "ports": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "port": {"type": "int", "required": True},
                    "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
                    "service": {"type": "str", "required": True},
                },
            },
            "sources": {"type": "list", "elements": "str", "default": []},
            "certificates": {"type": "list", "elements": "path", "default": []},
            "certificate_days": {"type": "float", "default": 30},
            "since_days": {"type": "float", "default": 7},
            "refusals": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    given = module.params
    declared = Declared(
        tuple(
            Person(
                one["name"],
                None if one["keys"] is None else tuple(files.fingerprints("\n".join(one["keys"]))),
                one["sudo"],
            )
            for one in given["people"]
        ),
        {(one["protocol"], one["port"]): one["service"] for one in given["ports"]},
        tuple(given["sources"]),
        given["refusals"],
        given["certificate_days"],
    )
    try:
        seen = _look(given)
        found = differences(declared, seen)
        oldest = _journal_from()
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        module.fail_json(msg=f"the access to this host could not be looked at: {error}")
    logins: Counter[str] = Counter()
    for login, count in seen.told.logins.items():
        logins[f"{login.user} from {login.source}"] += count
    module.exit_json(
        changed=False,
        differences=[{"about": one.about, "message": one.message} for one in found],
        seen={
            "accounts": len(seen.accounts),
            "keys": sum(map(len, seen.keys.values())),
            "ports": [f"{one.port}/{one.protocol} {one.program}" for one in seen.listeners],
            "logins": dict(logins),
            "refused": dict(seen.told.refused.most_common(10)),
            "sudo": dict(seen.told.sudo),
        },
        journal_from=oldest,
    )


def _look(given: dict[str, Any]) -> Seen:
    known = files.accounts(Path("/etc/passwd").read_text(), Path("/etc/shadow").read_text())
    groups = files.members(Path("/etc/group").read_text(), known)
    # sudo reads no name with a dot or that ends with ~.
    further = [file for file in Path("/etc/sudoers.d").glob("[!.]*") if not re.search(r"[.]|~$", file.name)]
    sudoers = [file.read_text() for file in (Path("/etc/sudoers"), *further) if file.is_file()]
    since = f"-{given['since_days'] * 86400:.0f}s"
    told = journal.read(
        # Root's lines: anybody can write under the name of sshd.
        _lines(
            "journalctl", f"--since={since}", "-o", "cat", "-q", "-t", "sshd", "-t", "sshd-session", "_UID=0"
        ),
        _lines("journalctl", f"--since={since}", "-o", "cat", "-q", "-t", "sudo"),
    )
    return Seen(
        known,
        {one.name: found for one in known if (found := _keys(one))},
        frozenset(files.administrators(sudoers, groups)),
        listeners("\n".join(_lines("ss", "-Hltunp"))),
        told,
        {path: _days(path) for path in given["certificates"]},
    )


def _keys(account: files.Account) -> list[str]:
    """Return the fingerprints of the keys that sshd would take for an account, wherever its settings say."""
    settings = _lines("sshd", "-T", "-C", f"user={account.name},host=localhost,addr=127.0.0.1")
    places = next((line.split()[1:] for line in settings if line.startswith("authorizedkeysfile ")), [])
    found: list[str] = []
    for place in places:
        path = place.replace("%%", "%").replace("%h", account.home).replace("%u", account.name)
        if path != "none":
            file = Path(account.home) / path
            if file.is_file():
                found += files.fingerprints(file.read_text(errors="replace"))
    return found


def _days(path: str) -> float | None:
    """Return for how many days a certificate is good; None when it cannot be read."""
    try:
        (line,) = _lines("openssl", "x509", "-enddate", "-noout", "-in", path)
        ends = datetime.strptime(line.partition("=")[2], "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
    except (subprocess.CalledProcessError, OSError, ValueError):
        return None
    return (ends - datetime.now(UTC)).total_seconds() / 86400


def _journal_from() -> str:
    command = ["journalctl", "-q", "-o", "short-unix", "--output-fields=MESSAGE"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stdout is not None
        first = process.stdout.readline().split()
        process.terminate()
    return datetime.fromtimestamp(float(first[0]), tz=UTC).isoformat(timespec="seconds") if first else ""


def _lines(*command: str) -> list[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, errors="replace"
    ).stdout.splitlines()


if __name__ == "__main__":
    main()
