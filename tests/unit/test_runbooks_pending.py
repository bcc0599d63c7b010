"""The pending ledger and the command that shows it."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stationkeeper.runbooks import command
from stationkeeper.runbooks.pending import Entry, Ledger, LedgerError, all_ledgers

NOW = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)


def entry(host: str, *, at: datetime = NOW, hours: int = 72, run_id: str = "one") -> Entry:
    return Entry(
        host,
        "silent",
        "upgrade",
        run_id,
        at.isoformat(),
        (at + timedelta(hours=hours)).isoformat(),
        "T-1",
        {"x": 1},
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "state" / "pending", "edge_upgrade")


def test_add_renew_and_remove(ledger: Ledger) -> None:
    before, after = ledger.update(add=[entry("a"), entry("b")], remove=[], now=NOW)
    assert (list(before), sorted(after)) == ([], ["a", "b"])
    assert ledger.entries() == after
    later = NOW + timedelta(hours=1)
    ledger.update(add=[entry("a", at=later, run_id="two")], remove=["b"], now=later)
    assert list(ledger.entries()) == ["a"]
    renewed = ledger.entries()["a"]
    assert (renewed.since, renewed.run_id) == (NOW.isoformat(), "two")
    ledger.update(add=[], remove=["a"], now=later)
    assert not ledger.path.exists()


def test_a_dry_run_writes_nothing(ledger: Ledger) -> None:
    _, after = ledger.update(add=[entry("a")], remove=[], now=NOW, dry_run=True)
    assert list(after) == ["a"]
    assert not ledger.path.parent.exists()


def test_expired_entries_are_not_due_and_go_with_the_next_write(ledger: Ledger) -> None:
    ledger.update(add=[entry("a", hours=1), entry("b")], remove=[], now=NOW)
    later = NOW + timedelta(hours=1)
    assert list(ledger.due(later)) == ["b"]
    assert sorted(ledger.entries()) == ["a", "b"]
    ledger.update(add=[], remove=[], now=later)
    assert list(ledger.entries()) == ["b"]


def test_the_directory_is_private(ledger: Ledger) -> None:
    ledger.update(add=[entry("a")], remove=[], now=NOW)
    assert stat.S_IMODE(ledger.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["{", "[]", '{"entries": {"a": {"who": 1}}}'])
def test_an_unreadable_ledger_is_an_error(ledger: Ledger, text: str) -> None:
    ledger.path.parent.mkdir(parents=True)
    ledger.path.write_text(text, encoding="utf-8")
    with pytest.raises(LedgerError, match="cannot be read"):
        ledger.entries()


def test_the_command_lists_what_waits(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    state = ledger.path.parents[1]
    assert command.run(["pending", "--state", str(state)]) == 0
    assert capsys.readouterr().out == "Nothing is pending.\n"
    now = datetime.now(UTC)
    ledger.update(add=[entry("a", at=now), entry("b", at=now, hours=-1)], remove=[], now=NOW)
    assert [item.runbook for item in all_ledgers(ledger.path.parent)] == ["edge_upgrade"]
    assert command.run(["pending", "--state", str(state)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:3] == ["edge_upgrade", "a", "until"]
    assert second.split()[:3] == ["edge_upgrade", "b", "EXPIRED"]
