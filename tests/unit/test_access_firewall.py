"""What a host lets in: what is declared, until when, and that nft takes the rules."""

from __future__ import annotations

import subprocess

import pytest

from stationkeeper.access.firewall import TABLE, mark, ports, ssh_networks, written
from stationkeeper.access.nftables import removed

NOW = 1_800_000_000
DECLARED = [
    {"port": 22, "protocol": "tcp", "service": "ssh", "from": []},
    {"port": 9100, "protocol": "tcp", "service": "node_exporter", "from": []},
    {"port": 443, "protocol": "tcp", "service": "nginx", "from": ["0.0.0.0/0", "::/0"]},
    {"port": 123, "protocol": "udp", "service": "time", "from": ["10.78.40.0/24"]},
]
ALLOWED = ports(DECLARED, ["10.8.0.0/24", "2001:db8::/64"])


def test_what_names_no_networks_is_for_the_sources() -> None:
    text = written(ALLOWED)
    assert "ip saddr { 10.8.0.0/24 } tcp dport { 22, 9100 } accept" in text
    assert "ip6 saddr { 2001:db8::/64 } tcp dport { 22, 9100 } accept" in text
    assert "ip saddr { 0.0.0.0/0 } tcp dport { 443 } accept" in text
    assert "ip saddr { 10.78.40.0/24 } udp dport { 123 } accept" in text
    assert ssh_networks(ALLOWED, 22) == ["10.8.0.0/24", "2001:db8::/64"]
    assert ssh_networks(ALLOWED, 2222) == []


def test_what_is_not_declared_is_refused_last() -> None:
    rules = [line.strip() for line in written(ALLOWED).splitlines() if line.startswith("    ")]
    assert rules[0] == "type filter hook input priority filter; policy accept;"
    assert rules[1] == "ct state established,related accept"
    assert [line.split(" comment")[0] for line in rules[-2:]] == [
        "meta l4proto tcp counter reject with tcp reset",
        "counter reject with icmpx admin-prohibited",
    ]


def test_rules_on_trial_let_everybody_in_when_it_is_over() -> None:
    text = written(ALLOWED, NOW)
    assert text.splitlines()[6].strip() == f"meta time >= {NOW} accept"
    # The kernel can be asked which of two it has.
    assert mark(text) != mark(written(ALLOWED))
    assert len(mark(text)) == 16
    assert text.count(mark(text)) == 2


@pytest.mark.parametrize("text", [written(ALLOWED), written(ALLOWED, NOW), written([]), removed(TABLE)])
def test_nft_takes_the_rules(text: str) -> None:
    done = subprocess.run(
        ["unshare", "--net", "nft", "--file", "-"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert TABLE in text
