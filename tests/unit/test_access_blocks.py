"""Blocked addresses: what is refused, what becomes of blocks, and that nft takes the rules."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from stationkeeper.access.blocks import (
    BlockError,
    changed,
    in_force,
    network,
    read,
    require_unprotected,
    written,
)

NOW = 1_800_000_000
DAY_S = 86400


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("attacker", "is no address"),
        ("203.0.113.7/24", "has host bits set"),
        ("0.0.0.0/0", "larger than a /16"),
        ("2001::/16", "larger than a /32"),
        ("127.0.0.1", "somebody sends from"),
        ("224.0.0.5", "somebody sends from"),
        ("::", "somebody sends from"),
    ],
)
def test_what_is_no_address_of_a_sender_is_refused(text: str, said: str) -> None:
    with pytest.raises(BlockError, match=said):
        network(text)


@pytest.mark.parametrize("text", ["10.78.40.11", "10.78.0.0/16", "10.78.40.8/29"])
def test_nobody_who_has_to_reach_the_host_is_cut_off(text: str) -> None:
    with pytest.raises(BlockError, match=r"holds fluxdb1 \(10.78.40.11\)"):
        require_unprotected([network(text)], {"2001:db8::1": ["2001:db8::1"], "fluxdb1": ["10.78.40.11"]})
    require_unprotected([network("203.0.113.7")], {"fluxdb1": ["10.78.40.11"]})


def test_a_network_of_operators_is_not_cut_off_in_part() -> None:
    with pytest.raises(BlockError, match=r"holds 192\.0\.2\.0/24, which has to reach"):
        require_unprotected([network("192.0.2.77")], {"192.0.2.0/24": ["192.0.2.0/24"]})


def test_blocks_are_added_kept_made_longer_and_end() -> None:
    one, other = network("203.0.113.7"), network("2001:db8:1::/48")
    first = changed([], [one], until=NOW + DAY_S, note="run-1", now=NOW)
    assert [(str(block.network), block.until) for block in first] == [("203.0.113.7/32", NOW + DAY_S)]
    # The same again a little later, and a shorter one, change nothing.
    assert changed(first, [one], until=NOW + DAY_S + 60, note="run-2", now=NOW + 60) == first
    assert changed(first, [one], until=NOW + 60, note="run-2", now=NOW) == first
    longer = changed(first, [one], until=NOW + 2 * DAY_S, note="run-3", now=NOW)
    assert (longer[0].until, longer[0].note) == (NOW + 2 * DAY_S, "run-3")
    short = changed([], [one], until=NOW + 60, note="run-1", now=NOW)
    assert changed(short, [one], until=NOW + 600, note="run-2", now=NOW)[0].until == NOW + 600
    both = changed(first, [other], until=NOW + 3 * DAY_S, note="run-4", now=NOW)
    assert [block.network for block in both] == [one, other]
    assert [block.network for block in changed(both, [], until=None, note="", now=NOW + 2 * DAY_S)] == [other]
    assert changed(both, [one, other], until=None, note="", now=NOW) == []


def test_a_file_is_read_as_it_was_written_and_one_that_was_changed_is_refused() -> None:
    wanted = [network("203.0.113.7"), network("2001:db8:1::/48")]
    blocks = changed([], wanted, until=NOW, note="20261122T100000Z-1", now=NOW - 1)
    text = written(blocks)
    assert read(text) == blocks
    assert read("") == read(written([])) == []
    assert "delete table" in written([])
    assert "drop" not in written([])
    with pytest.raises(BlockError, match="changed by hand"):
        read(text.replace("drop", "accept", 1))


def test_nft_takes_the_rules_and_shows_what_we_read(tmp_path: Path) -> None:
    wanted = [network("203.0.113.7"), network("198.51.100.0/24"), network("2001:db8:1::/48")]
    blocks = changed([], wanted, until=NOW, note="run-1", now=NOW - 1)
    file = tmp_path / "blocked.nft"
    file.write_text(written(blocks))
    # In a network of its own, which goes with the process.
    script = f"nft --file {file} && nft --file {file} && nft --json list ruleset"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=True
    )
    assert in_force(done.stdout) == {block.comment: 0 for block in blocks}
    drops = [rule for rule in json.loads(done.stdout)["nftables"] if "drop" in json.dumps(rule)]
    assert len(drops) == 3
    file.write_text(written([]))
    subprocess.run(["unshare", "--net", "sh", "-c", f"nft --file {file}"], check=True)
