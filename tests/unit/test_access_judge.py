"""Who can get at a host, and who did: each difference from the declaration is told, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stationkeeper.access import journal
from stationkeeper.access.accounts import Account, accounts, administrators, fingerprints, members
from stationkeeper.access.judge import Declared, Person, Seen, differences
from stationkeeper.access.ports import Listener, listeners

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJo1Hk1uJ6pPZL2kUuH4ffGLLSJ9qQnK3wEJvGpFzqQ3 anna@example"
(PRINT,) = fingerprints(KEY)
OPS = Account("ops", 1000, 1000, "/home/ops", "/bin/bash", has_password=False)
ROOT = Account("root", 0, 0, "/root", "/bin/bash", has_password=False)
DECLARED = Declared(
    (Person("ops", (PRINT,), sudo=True), Person("restic", None, sudo=False)),
    {("tcp", 22): "ssh", ("tcp", 5432): "PostgreSQL"},
    ("10.78.20.0/24",),
    refusals=20,
    certificate_days=30,
)
SEEN = Seen(
    (ROOT, OPS, Account("restic", 120, 120, "/srv", "/usr/sbin/nologin", has_password=False)),
    {"ops": (PRINT,), "restic": ("SHA256:made-on-the-host",)},
    frozenset({"root", "ops"}),
    (Listener("tcp", 22, "sshd"), Listener("tcp", 5432, "postgres")),
    journal.read(
        [
            f"Accepted publickey for ops from 10.78.20.1 port 48872 ssh2: ED25519 {PRINT}",
            "Accepted publickey for restic from 10.78.20.30 port 48872 ssh2: ED25519 SHA256:made-on-the-host",
            "Connection closed by 10.78.20.1 port 47516",
        ],
        ["     ops : PWD=/home/ops ; USER=root ; COMMAND=/bin/sh -c 'echo hello'"],
    ),
    {"/etc/ssl/server.pem": 200.0},
)


def messages(seen: Seen) -> list[str]:
    return [f"{one.about}: {one.message}" for one in differences(DECLARED, seen)]


def test_a_host_as_declared_has_no_difference() -> None:
    assert messages(SEEN) == []


def test_accounts() -> None:
    stranger = Account("eve", 1001, 1001, "/home/eve", "/bin/bash", has_password=True)
    toor = Account("toor", 0, 0, "/root", "/usr/sbin/nologin", has_password=False)
    daemon = Account("mosquitto", 130, 130, "/var/lib/mosquitto", "/usr/sbin/nologin", has_password=False)
    locked = Account("bob", 1002, 1002, "/home/bob", "/usr/sbin/nologin", has_password=False)
    assert messages(replace(SEEN, accounts=(*SEEN.accounts, stranger, toor, daemon, locked))) == [
        "account: eve is not declared",
        "account: eve has a password; only keys are declared",
        "account: toor has number 0, which makes it root",
    ]
    assert messages(replace(SEEN, accounts=SEEN.accounts[:1])) == [
        "account: ops is declared, and not there",
        "account: restic is declared, and not there",
    ]


def test_keys() -> None:
    keys = {"ops": ("SHA256:other",), "root": ("SHA256:way-in",), "restic": ("SHA256:another-host",)}
    assert messages(replace(SEEN, keys=keys)) == [
        "key: ops has key SHA256:other, which is not declared",
        f"key: ops lacks the declared key {PRINT}",
        "key: root has key SHA256:way-in, which is not declared",
    ]


def test_sudo() -> None:
    told = journal.read(
        (),
        [
            "eve : user NOT in sudoers ; PWD=/ ; USER=root ; COMMAND=/bin/sh",
            "eve : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh",
            "pam_unix(sudo:session): session opened for user root(uid=0) by ops(uid=1000)",
        ],
    )
    assert messages(replace(SEEN, administrators=frozenset({"root", "eve"}), told=told)) == [
        "sudo: eve may use sudo, which is not declared",
        "sudo: ops is to have sudo, and has not",
        "sudo: eve used sudo 1 times, and is not declared to have it",
        "sudo: eve was refused by sudo 1 times",
    ]


def test_ports() -> None:
    found = (Listener("tcp", 22, "sshd"), Listener("udp", 5353, "avahi-daemon"))
    assert messages(replace(SEEN, listeners=found)) == [
        "port: avahi-daemon listens on 5353/udp, which is not declared",
        "port: nobody listens on 5432/tcp (PostgreSQL), which is declared",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            f"Accepted publickey for eve from 10.78.20.1 port 1 ssh2: ED25519 {PRINT}",
            "this account is not declared",
        ),
        (
            "Accepted publickey for ops from 10.78.20.1 port 1 ssh2: ED25519 SHA256:x",
            "with key SHA256:x, which is not",
        ),
        ("Accepted password for ops from 10.78.20.1 port 1 ssh2", "by password, and only keys are declared"),
        (
            f"Accepted publickey for ops from 192.0.2.7 port 1 ssh2: ED25519 {PRINT}",
            "not where logins come from",
        ),
        (
            f"Accepted publickey for ops from fe80::1%eth0 port 1 ssh2: ED25519 {PRINT}",
            "not where logins come from",
        ),
    ],
)
def test_logins(line: str, words: str) -> None:
    (message,) = messages(replace(SEEN, told=journal.read([line, line], ())))
    assert "logged in 2 times" in message
    assert words in message


def test_refused_logins_are_daily_life_up_to_a_number() -> None:
    lines = [
        "Invalid user admin from 198.51.100.9 port 40000",
        "Failed password for invalid user admin from 198.51.100.9 port 40000 ssh2",
        "Connection closed by authenticating user root 198.51.100.9 port 40001 [preauth]",
        "Failed publickey for ops from 198.51.100.9 port 40001 ssh2: ED25519 SHA256:x",
    ]
    assert messages(replace(SEEN, told=journal.read(lines * 5, ()))) == []
    assert messages(replace(SEEN, told=journal.read(lines * 6, ()))) == [
        "login: 24 logins from 198.51.100.9 were refused"
    ]


def test_certificates() -> None:
    ends = {"/a.pem": 29.0, "/b.pem": -3.0, "/c.pem": None, "/d.pem": 31.0}
    assert messages(replace(SEEN, certificates=ends)) == [
        "certificate: /a.pem ends 29 days from now",
        "certificate: /b.pem ended 3 days ago",
        "certificate: /c.pem is declared, and cannot be read",
    ]


def test_files_of_accounts_are_read() -> None:
    found = accounts(
        "root:x:0:0:root:/root:/bin/bash\nops:x:1000:1000:,,,:/home/ops:/bin/bash\nbroken line\n",
        "root:*:20000:0:99999:7:::\nops:!:20000:0:99999:7:::\n",
    )
    assert [(one.name, one.has_password, one.is_person) for one in found] == [
        ("root", False, False),
        ("ops", False, True),
    ]
    (eve,) = accounts("eve:x:1001:27::/home/eve:/bin/sh\n", "eve:$y$j9T$abc:20000::::::\n")
    assert eve.has_password
    groups = members("sudo:x:27:ops\nadm:x:4:\n", [eve])
    assert groups == {"sudo": {"ops", "eve"}, "adm": set()}
    sudoers = [
        "Defaults\tenv_reset\nroot ALL=(ALL:ALL) ALL\n%sudo\tALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n"
    ]
    sudoers += ["# ops\nanna ALL=(ALL) \\\n  NOPASSWD: ALL\nUser_Alias X = bob\n"]
    assert administrators(sudoers, groups) == {"root", "ops", "eve", "anna"}


def test_fingerprints_are_those_that_ssh_prints() -> None:
    text = f'# {KEY}\nrestrict,command="x" {KEY}\nnonsense\nssh-rsa not!base64{"x" * 40}\n'
    assert fingerprints(text) == [PRINT]
    assert PRINT.startswith("SHA256:")
    assert not PRINT.endswith("=")


def test_what_ss_prints_is_read() -> None:
    text = """tcp LISTEN 0 4096 *:9090 *:* users:(("prometheus",pid=10822,fd=6))
tcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=10912,fd=6))
tcp LISTEN 0 128 [::]:22 [::]:* users:(("sshd",pid=10912,fd=7))
tcp LISTEN 0 511 127.0.0.1:6379 0.0.0.0:* users:(("redis-server",pid=10825,fd=8))
tcp LISTEN 0 511 [::1]:6379 [::]:*
udp UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:*
udp UNCONN 0 0 [fe80::1]%eth0:546 [::]:*
"""
    assert listeners(text) == [
        Listener("tcp", 22, "sshd"),
        Listener("tcp", 9090, "prometheus"),
        Listener("udp", 546, ""),
    ]
