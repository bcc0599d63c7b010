"""The users of a Redis: in the file and in the running server, without a client that notices."""

from __future__ import annotations

import getpass
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from module_runner import run_module
from redis_server import PASSWORD, USERS, RedisServer

OTHER = "another-word-that-is-in-no-log"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    made = RedisServer()
    yield made
    made.remove()


def declare(server: RedisServer, tmp_path: Path, *, check: bool = False, **flux: Any) -> dict[str, Any]:
    """Declare the inventory's users, with changes to `flux`; a None removes it."""
    users = [{"name": one["name"], "password": PASSWORD, "rules": one["rules"]} for one in USERS]
    users = [one | flux if one["name"] == "flux" else one for one in users]
    arguments = {
        "path": str(server.directory / "users.acl"),
        "users": [one for one in users if one["name"]],
        "operator": "admin",
        "owner": getpass.getuser(),
        "port": server.port,
    }
    return run_module(tmp_path, "redis_users", arguments, check=check, package=None, hidden=OTHER)


def works(server: RedisServer, password: str) -> bool:
    try:
        redis.Redis(port=server.port, username="flux", password=password).ping()
    except redis.AuthenticationError:
        return False
    return True


def test_a_password_is_rotated_under_a_client_that_stays_connected(
    server: RedisServer, tmp_path: Path
) -> None:
    client = server.client("flux").client()
    client.set("flux:a", "1")
    declare(server, tmp_path)
    preview = declare(server, tmp_path, password_other=OTHER, check=True)
    assert preview["users"] == ["flux"]
    assert not works(server, OTHER)
    both = declare(server, tmp_path, password_other=OTHER)
    assert (both["changed"], both["users"], both["told"]) == (True, ["flux"], True)
    assert works(server, OTHER)
    assert works(server, PASSWORD)
    assert declare(server, tmp_path, password_other=OTHER)["changed"] is False
    declare(server, tmp_path, password=OTHER)
    assert works(server, OTHER)
    assert not works(server, PASSWORD)
    assert client.get("flux:a") == "1"
    # The file says the same, for the next start.
    server.admin.execute_command("ACL LOAD")
    assert works(server, OTHER)
    assert not works(server, PASSWORD)


def test_a_running_server_that_differs_from_the_file_is_set_right(
    server: RedisServer, tmp_path: Path
) -> None:
    declare(server, tmp_path)
    server.admin.execute_command("ACL SETUSER", "flux", f">{OTHER}")
    assert declare(server, tmp_path)["users"] == ["flux"]
    assert not works(server, OTHER)


def test_a_user_that_is_not_declared_any_more_is_removed(server: RedisServer, tmp_path: Path) -> None:
    declare(server, tmp_path)
    assert declare(server, tmp_path, name="")["users"] == ["flux"]
    assert not works(server, PASSWORD)


def test_a_server_that_is_away_gets_the_file(server: RedisServer, tmp_path: Path) -> None:
    declare(server, tmp_path)
    port = server.port
    server.port = 1
    told = declare(server, tmp_path, password=OTHER)
    server.port = port
    assert (told["changed"], told["told"]) == (True, False)
    assert not works(server, OTHER)
    server.admin.execute_command("ACL LOAD")
    assert works(server, OTHER)


def test_an_operator_that_is_no_user_is_refused(server: RedisServer, tmp_path: Path) -> None:
    arguments = {"path": str(server.directory / "users.acl"), "users": [], "operator": "admin"}
    refused = run_module(tmp_path, "redis_users", arguments, package=None)
    assert refused["failed"]
    assert "users has no admin" in refused["msg"]


@pytest.mark.parametrize(("password", "accepted"), [(PASSWORD, True), (OTHER, False)])
def test_a_login_is_accepted_or_refused(
    server: RedisServer, tmp_path: Path, password: str, accepted: bool
) -> None:
    login = {"host": "127.0.0.1", "port": server.port, "user": "flux", "password": password}
    tried = run_module(tmp_path, "redis_login", login, package=None, hidden=password)
    assert tried["accepted"] is accepted
    assert ("WRONGPASS" in tried["answer"]) is not accepted


def test_nobody_who_answers_is_an_error(tmp_path: Path) -> None:
    login = {"host": "127.0.0.1", "port": 1, "user": "flux", "password": PASSWORD}
    tried = run_module(tmp_path, "redis_login", login, package=None)
    assert tried["failed"]
    assert "does not answer" in tried["msg"]


def test_sessions_of_one_user_are_ended(server: RedisServer, tmp_path: Path) -> None:
    one = server.client("flux").client()
    one.ping()
    admins = server.admin.client_id()
    login = server.settings("admin") | {"of": "flux"}
    young = run_module(tmp_path, "redis_sessions", login | {"older_than_s": 3600}, package=None)
    assert (young["changed"], young["ended"], young["left"]) == (False, 0, 1)
    preview = run_module(tmp_path, "redis_sessions", login, package=None, check=True)
    assert (preview["changed"], preview["ended"]) == (True, 1)
    ended = run_module(tmp_path, "redis_sessions", login, package=None)
    assert (ended["ended"], ended["left"]) == (1, 0)
    assert server.admin.client_id() == admins
    with pytest.raises(redis.ConnectionError):
        one.connection.read_response()


def test_a_session_that_ends_by_itself_is_given_the_time(server: RedisServer, tmp_path: Path) -> None:
    lasting, short = server.client("flux").client(), server.client("flux").client()
    lasting.ping()
    short.ping()
    before = len(server.admin.client_list())

    def end_when_it_is_waited_for() -> None:
        while len(server.admin.client_list()) == before:
            time.sleep(0.05)
        time.sleep(1)
        short.connection.disconnect()

    waiter = threading.Thread(target=end_when_it_is_waited_for)
    waiter.start()
    arguments = server.settings("admin") | {"of": "flux", "patience_s": 5}
    done = run_module(tmp_path, "redis_sessions", arguments, package=None)
    waiter.join()
    assert (done["ended"], done["by_themselves"], done["left"]) == (1, 1, 0)
    with pytest.raises(redis.ConnectionError):
        lasting.connection.read_response()
