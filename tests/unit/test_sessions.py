"""Who blocks whom on a real server, and the end of exactly one session."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from local_project import LocalProject
from module_runner import run_module
from postgres_cluster import PostgresCluster

from stationkeeper.database import sessions, sessions_end
from stationkeeper.database.connection import connect
from stationkeeper.database.maintenance_server import session
from stationkeeper.database.sessions import Session, SessionError

NOW = datetime(2026, 11, 21, 22, 0, tzinfo=UTC)


def process(pid: int, blocked_by: tuple[int, ...] = (), **changes: Any) -> Session:
    values: dict[str, Any] = {
        "pid": pid,
        "backend_start": NOW - timedelta(hours=1, seconds=-pid),
        "database": "flux",
        "user": "flux_writer",
        "application": "",
        "client": None,
        "kind": "client backend",
        "state": "active",
        "state_change": NOW,
        "transaction_start": NOW,
        "transaction_s": 3700.0,
        "state_s": 5.0,
        "waits_s": 2.0 * pid if blocked_by else None,
        "blocked_by": blocked_by,
        "query": "UPDATE t SET a = ?",
    }
    return Session(**{**values, **changes})


def test_the_whole_tree_is_shown() -> None:
    found = [process(1, state="idle in transaction"), process(2, (1,)), process(3, (2, 1)), process(9)]
    lines = sessions.tree(found)
    assert [line.split()[0] for line in lines] == ["1", "3", "2", "3"]
    assert [len(line) - len(line.lstrip()) for line in lines] == [0, 2, 2, 4]
    assert lines[0] == (
        "1 since 2026-11-21T21:00:01+00:00 flux_writer@flux: idle in transaction 0:00:05, "
        "transaction 1:01:40: UPDATE t SET a = ?"
    )
    assert "waits 0:00:06" in lines[1]


def test_prepared_transactions_circles_and_the_dead_are_in_the_tree() -> None:
    assert sessions.tree([process(2, (sessions.PREPARED,))])[0] == "a prepared transaction"
    assert sessions.tree([process(2, (7,))])[0] == "7, which has ended meanwhile"
    circle = sessions.tree([process(1, (2,)), process(2, (1,))])
    assert [line.split()[0] for line in circle] == ["2", "1", "2"]
    assert circle[2].endswith("2 again: they wait for each other")


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("ALTER ROLE x PASSWORD 'se''cret'", "ALTER ROLE x PASSWORD ?"),
        ("SELECT 1.5e3,\n  $1, a1, E'it\\'s' FROM t2", "SELECT ?, $1, a1, ? FROM t2"),
        ("DO $body$ 'x' $body$", "DO ?"),
        ("SELECT 'cut off by the ser", "SELECT ?"),
    ],
)
def test_literals_are_not_shown(query: str, shown: str) -> None:
    assert sessions.redacted(query) == shown


def test_only_the_session_that_is_meant_can_be_named() -> None:
    one, walsender = process(1), process(2, kind="walsender", database=None)
    assert sessions.named([one], 1, one.backend_start, "flux") is one
    assert sessions.named([one], 4, one.backend_start, "flux") is None
    with pytest.raises(SessionError, match="is not the one you named"):
        sessions.named([one], 1, NOW, "flux")
    with pytest.raises(SessionError, match="walsender is replication"):
        sessions.named([walsender], 2, walsender.backend_start, "flux")
    with pytest.raises(SessionError, match="not in other"):
        sessions.named([one], 1, one.backend_start, "other")


def test_idle_ones_are_clients_of_that_database_in_a_transaction() -> None:
    idle = process(1, state="idle in transaction (aborted)", state_s=61.0)
    others = [
        process(2, state="idle", state_s=99.0),
        process(3, state="idle in transaction", state_s=59.0),
        process(4, state="idle in transaction", state_s=99.0, database="other"),
        process(5, state="idle in transaction", state_s=99.0, kind="walsender"),
    ]
    assert sessions.idle([idle, *others], 60, "flux") == [idle]


class Blocked:
    """A session that holds a row, and one that waits for it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.holder, self.waiter = connect(settings), connect(settings)
        with self.holder, self.holder.cursor() as cursor:
            cursor.execute("CREATE TABLE t AS SELECT 1 AS a")
        self.holder.cursor().execute("UPDATE t SET a = 2")
        self.error = ""
        self.thread = threading.Thread(target=self._wait)
        self.thread.start()

    def _wait(self) -> None:
        try:
            self.waiter.cursor().execute("UPDATE t SET a = 3")
        except psycopg2.Error as error:
            self.error = str(error)

    def close(self) -> None:
        self.holder.close()
        self.thread.join()
        self.waiter.close()


@pytest.fixture
def blocked(postgres_settings: dict[str, Any]) -> Iterator[Blocked]:
    pair = Blocked(postgres_settings)
    yield pair
    pair.close()


@contextmanager
def look(
    settings: dict[str, Any], pid: int, until: Callable[[Session], bool]
) -> Iterator[tuple[Any, Session]]:
    """A session for maintenance, and what it sees of a process once that is as expected."""
    with session(settings) as connection:
        for _ in range(600):
            found = [one for one in sessions.read(connection) if one.pid == pid and until(one)]
            if found:
                yield connection, found[0]
                return
            time.sleep(0.05)
    raise AssertionError(f"process {pid} never became as expected")


def test_a_query_is_cancelled_before_its_session_is_ended(
    blocked: Blocked, postgres_settings: dict[str, Any]
) -> None:
    pid = blocked.waiter.info.backend_pid
    with look(postgres_settings, pid, lambda one: one.blocked_by != ()) as (connection, waiter):
        assert waiter.blocked_by == (blocked.holder.info.backend_pid,)
        assert waiter.waits_s is not None
        assert sessions_end.end(connection, waiter, cancel_wait_s=30, only_while_idle=False) == "cancelled"
        blocked.thread.join()
        assert "canceling statement" in blocked.error
        # The session lives.
        blocked.waiter.rollback()
        blocked.waiter.cursor().execute("SELECT 1")


def test_what_a_cancelled_query_leaves_locked_ends_with_its_session(
    blocked: Blocked, postgres_settings: dict[str, Any]
) -> None:
    other = connect(postgres_settings)
    cursor = other.cursor()
    cursor.execute("SELECT pg_advisory_lock(1)")
    other.commit()
    refused = []

    def wait() -> None:
        try:
            cursor.execute("UPDATE t SET a = 4")
        except psycopg2.Error as error:
            refused.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    with look(postgres_settings, other.info.backend_pid, lambda one: one.blocked_by != ()) as (
        connection,
        one,
    ):
        assert sessions_end.end(connection, one, cancel_wait_s=0.3, only_while_idle=False) == "terminated"
    thread.join()
    assert "canceling statement" in refused[0]
    other.close()


def test_the_end_hits_only_the_one_that_was_seen(blocked: Blocked, postgres_settings: dict[str, Any]) -> None:
    pid = blocked.holder.info.backend_pid
    with look(postgres_settings, pid, lambda one: one.idle_in_transaction) as (connection, holder):
        blocked.holder.cursor().execute("SELECT 1")
        # It has worked meanwhile, so it is not what was judged to be idle.
        assert sessions_end.end(connection, holder, cancel_wait_s=1, only_while_idle=True) == "busy again"
        # A process of the same number that began at another moment is another session.
        other = Session(**{**holder.__dict__, "backend_start": holder.backend_start - timedelta(seconds=1)})
        assert sessions_end.end(connection, other, cancel_wait_s=1, only_while_idle=False) == "gone"
        assert blocked.holder.closed == 0
        assert sessions_end.end(connection, holder, cancel_wait_s=1, only_while_idle=False) == "terminated"
    blocked.thread.join()
    assert blocked.error == ""
    with pytest.raises(psycopg2.Error):
        blocked.holder.cursor().execute("SELECT 1")


def test_the_module_looks_plans_and_ends(
    tmp_path: Path, blocked: Blocked, postgres_settings: dict[str, Any], postgres_cluster: PostgresCluster
) -> None:
    arguments = {
        "database": postgres_settings["name"],
        "hosts": [str(postgres_cluster.directory)],
        "port": postgres_settings["port"],
        "idle_in_transaction_s": 0,
    }
    planned = run_module(tmp_path, "database_sessions", arguments, check=True)
    pid = blocked.holder.info.backend_pid
    assert planned["changed"]
    assert [item["pid"] for item in planned["ended"]] == [pid]
    assert planned["tree"][0].startswith(f"{pid} since ")
    assert len(planned["tree"]) == 2
    ended = run_module(tmp_path, "database_sessions", arguments)
    assert [(item["pid"], item["by"]) for item in ended["ended"]] == [(pid, "terminated")]
    assert ended["tree_after"] == []


def test_the_runbook_ends_the_named_session_and_proves_it(
    tmp_path: Path, blocked: Blocked, postgres_settings: dict[str, Any], postgres_cluster: PostgresCluster
) -> None:
    variables = {
        "stationkeeper_system": "test",
        "stationkeeper_database": {key: postgres_settings[key] for key in ("hosts", "port", "name")},
    }
    project = LocalProject(tmp_path, variables, {"databases": {"db": {}}})
    project.environment = {"PGHOST": str(postgres_cluster.directory), "PGUSER": "postgres"}
    database = 'database: "{{ _database }}"\n'
    project.replace(
        "database_sessions", database, f"{database}            hosts: [{postgres_cluster.directory}]\n"
    )
    pid = blocked.holder.info.backend_pid
    with look(postgres_settings, pid, lambda one: True) as (_, holder):
        began = holder.backend_start.isoformat()
    given = {"target": "db", "reason": "test", "pid": pid, "backend_start": began}
    assert project.run("database_sessions", **given) == 0, project.output
    assert f"{pid} terminated" in project.output
    assert project.changed
    assert project.run("database_sessions", **given) == 0, project.output
    assert "nothing to end" in project.output
    assert not project.changed
