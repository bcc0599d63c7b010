"""Locks: who holds them, who may take them over, and that two runs never both hold one."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stationkeeper.runbooks import process
from stationkeeper.runbooks.lock import Attempt, Lock, LockError

NOW = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)
OWNER = {"user": "ada", "node": "control", "pid": 42}


def take(lock: Lock, run_id: str, *, after_s: int = 0, **options: Any) -> Attempt:
    return lock.acquire(
        run_id=run_id,
        runbook="edge_upgrade",
        purpose="upgrade",
        owner=OWNER,
        ttl_s=900,
        now=NOW + timedelta(seconds=after_s),
        **options,
    )


@pytest.fixture
def lock(tmp_path: Path) -> Lock:
    return Lock("station", tmp_path / "locks")


def test_check_changed_nothing_happened_taken_and_again(lock: Lock) -> None:
    planned = take(lock, "one", dry_run=True)
    assert planned.held
    assert planned.changed
    assert not lock.directory.exists()
    assert take(lock, "one").held
    renewed = take(lock, "one", after_s=60)
    assert renewed.held
    assert renewed.holder is not None
    assert (renewed.holder.since, renewed.holder.until) == (
        "2026-11-21T03:00:00+00:00",
        "2026-11-21T03:16:00+00:00",
    )


def test_a_held_lock_says_who_since_when_for_what_and_how_to_go_on(lock: Lock) -> None:
    take(lock, "one")
    refused = take(lock, "two", after_s=10)
    assert not refused.held
    for part in ("ada@control (pid 42)", "since 2026-11-21T03:00:00", "edge_upgrade: upgrade", "run one"):
        assert part in refused.message
    assert "until 2026-11-21T03:15:00+00:00. Ask them, or wait" in refused.message


def test_an_expired_lock_is_taken_over(lock: Lock) -> None:
    take(lock, "one")
    assert not take(lock, "two", after_s=899).held
    taken = take(lock, "two", after_s=900)
    assert (taken.held, taken.takeover) == (True, "expired")
    assert taken.displaced is not None
    assert taken.displaced.run_id == "one"


def test_an_orphan_is_taken_over_only_from_the_run_that_was_found_dead(lock: Lock) -> None:
    take(lock, "one")
    assert not take(lock, "three", orphan_of="two").held
    assert take(lock, "three", orphan_of="one").takeover == "orphaned"


def test_preemption_and_that_the_old_run_cannot_release_it(lock: Lock) -> None:
    take(lock, "one")
    assert take(lock, "stop", preempt=True).takeover == "preempted"
    assert not lock.release(run_id="one").changed
    holder = lock.read()
    assert holder is not None
    assert holder.run_id == "stop"
    assert lock.release(run_id="stop").changed
    assert lock.read() is None
    assert not lock.release(run_id="stop").changed


def test_releasing_in_check_mode_and_a_lock_that_never_was(lock: Lock) -> None:
    assert not lock.release(run_id="one").changed
    assert not lock.directory.exists()
    take(lock, "one")
    assert lock.release(run_id="one", dry_run=True).changed
    assert lock.read() is not None


def test_an_unreadable_record_is_an_error_and_is_kept(lock: Lock) -> None:
    lock.directory.mkdir()
    lock.path.write_text("{", encoding="utf-8")
    with pytest.raises(LockError, match="remove it by hand when no run is under way"):
        take(lock, "one")
    assert lock.path.read_text(encoding="utf-8") == "{"


@pytest.mark.parametrize("scope", ["../x", "", "A", ".x"])
def test_a_scope_is_a_name(tmp_path: Path, scope: str) -> None:
    with pytest.raises(LockError):
        Lock(scope, tmp_path)


def _race(directory: Path, run_id: str, results: Any) -> None:
    results.put(take(Lock("station", directory), run_id).held)


def test_only_one_of_many_gets_it(lock: Lock) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    runs = [context.Process(target=_race, args=(lock.directory, f"run-{n}", results)) for n in range(8)]
    for run in runs:
        run.start()
    held = [results.get(timeout=10) for _ in runs]
    for run in runs:
        run.join()
    assert held.count(True) == 1
    assert json.loads(lock.path.read_text(encoding="utf-8"))["run_id"].startswith("run-")


def here(**changes: Any) -> dict[str, Any]:
    return {
        **process.describe_process(os.getpid()),
        "machine": "m",
        "namespace": "pid:[4026531836]",
        **changes,
    }


def test_this_process_is_alive() -> None:
    me = here()
    assert process.owner_state(me, me) == "alive"


def test_a_process_that_ended_is_dead_and_so_is_one_whose_pid_was_reused() -> None:
    ended = subprocess.Popen(["true"])
    started = process.describe_process(ended.pid)["pid_started"]
    ended.wait()
    assert process.owner_state(here(pid=ended.pid, pid_started=started), here()) == "dead"
    assert process.owner_state(here(pid_started=1), here()) == "dead"


def test_a_zombie_is_dead() -> None:
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    assert process.owner_state(here(pid=zombie.pid), here()) == "dead"
    zombie.wait()


@pytest.mark.parametrize(
    "changes", [{"machine": "other"}, {"node": "other"}, {"namespace": "pid:[1]"}, {"pid": None}]
)
def test_another_node_or_container_cannot_be_judged(changes: dict[str, Any]) -> None:
    assert process.owner_state(here(**changes), here()) == "elsewhere"


def test_a_node_without_an_identity_judges_nobody() -> None:
    assert process.owner_state(here(machine=""), here(machine="")) == "elsewhere"


def test_after_a_restart_of_the_node_its_runs_are_dead_but_a_container_never_knows() -> None:
    assert process.owner_state(here(boot="old"), here()) == "dead"
    inside = {"namespace": "pid:[4026532000]"}
    assert process.owner_state(here(boot="old", **inside), here(**inside)) == "elsewhere"
