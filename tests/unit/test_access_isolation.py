"""A host that is cut off: who still comes through, when it ends, and that nft takes the rules."""

from __future__ import annotations

import subprocess

import pytest

from stationkeeper.access.isolation import (
    TABLE,
    until_and_note,
    written,
)
from stationkeeper.access.nftables import comment, removed
from stationkeeper.access.way_back import WayBackError, require

NOW = 1_800_000_000
HOUR_S = 3600
KEEP = ["10.78.40.1", "2001:db8::/64"]


@pytest.mark.parametrize("peer", ["10.78.40.1", "[::ffff:10.78.40.1]", "[2001:db8::5]", "2001:db8::5%eth0"])
def test_somebody_who_is_let_through_may_isolate(peer: str) -> None:
    require(["203.0.113.7", peer], KEEP, "keep")


@pytest.mark.parametrize("peers", [[], ["10.78.40.2"], ["[2001:db9::1]"]])
def test_nobody_isolates_a_host_from_themselves(peers: list[str]) -> None:
    with pytest.raises(WayBackError, match="say the address that this host sees in `keep`"):
        require(peers, KEEP, "keep")


def test_one_that_lasts_long_enough_is_kept() -> None:
    text = written(KEEP, NOW + 24 * HOUR_S, "run-1")
    there = (NOW + 24 * HOUR_S, "run-1")
    assert until_and_note(text, KEEP, NOW + 120, "run-2", NOW) == there
    assert until_and_note(text, KEEP, NOW + 24 * HOUR_S + 60, "run-2", NOW + 60) == there


@pytest.mark.parametrize(
    ("keep", "until", "now"),
    [
        (KEEP, NOW + 48 * HOUR_S, NOW),
        (["10.78.40.1"], NOW + 24 * HOUR_S, NOW),
        (KEEP, NOW + 25 * HOUR_S, NOW + 24 * HOUR_S),
        # The first, short one is no hour.
        (KEEP, NOW + 25 * HOUR_S - 120, NOW + 24 * HOUR_S - 120),
    ],
)
def test_a_longer_one_for_others_or_after_its_end_is_new(keep: list[str], until: int, now: int) -> None:
    text = written(KEEP, NOW + 24 * HOUR_S, "run-1")
    assert until_and_note(text, keep, until, "run-2", now) == (until, "run-2")
    assert until_and_note("", keep, until, "run-2", now) == (until, "run-2")


def test_nft_takes_the_rules_and_takes_them_away_again() -> None:
    text = written(KEEP, NOW, "run-1")
    listed = in_a_network_of_its_own(text)
    assert listed.count(f'drop comment "{comment(NOW, "run-1")}"') == 2
    assert listed.count("ip saddr 10.78.40.1 accept") == listed.count("ip daddr 10.78.40.1 accept") == 1
    assert TABLE not in in_a_network_of_its_own(text + removed(TABLE))
    assert TABLE not in in_a_network_of_its_own(removed(TABLE))


def in_a_network_of_its_own(rules: str) -> str:
    """Load rules where nobody else is, and return what nft says then; all of it goes with the process."""
    command = ["unshare", "--net", "sh", "-c", "nft --file - && nft list ruleset"]
    return subprocess.run(command, input=rules, capture_output=True, text=True, check=True).stdout
