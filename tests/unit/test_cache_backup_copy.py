"""Copies of Redis and their way back, with real servers: what the guides lose, and what we keep."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import redis
from redis_server import PASSWORD, RedisServer

from free_port import free_port
from stationkeeper.backup.files.cache_restore import Server, restore
from stationkeeper.backup.files.redis_copy import (
    Contents,
    check_rdb,
    copy_redis,
    judge,
    judge_load,
    same_value,
    scratch,
)
from stationkeeper.backup.files.resp import Redis
from stationkeeper.backup.files.settings import BackupError, RedisAddress


@pytest.fixture(scope="module")
def live() -> Iterator[RedisServer]:
    """A Redis with the inventory's users, and 3,000 keys."""
    server = RedisServer()
    with server.admin.pipeline() as pipe:
        for number in range(3000):
            pipe.set(f"key:{number}", f"value {number}" * 5)
        pipe.hset("hash", mapping={"a": "1", "b": "2"})
        pipe.zadd("sorted", {"x": 1.5})
        pipe.execute()
    yield server
    server.remove()


def address(port: int) -> RedisAddress:
    """The backup's own user: it may copy, and change nothing."""
    return RedisAddress("127.0.0.1", port, "backup", PASSWORD)


@pytest.fixture(scope="module")
def copy(live: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that was made while others wrote."""
    target = tmp_path_factory.mktemp("copy") / "dump.rdb"
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            live.admin.set("busy", number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        about = copy_redis(address(live.port), target)
    finally:
        stop.set()
        writer.join()
    assert about["keys"] == about["keys_read"] == 3003
    assert about["compared"] > 100
    return target


def test_a_file_of_redis_is_of_its_last_save_and_ours_of_now(live: RedisServer, copy: Path) -> None:
    live.admin.save()
    live.admin.set("since the save", "1")
    assert check_rdb(live.directory / "dump.rdb")["keys_read"] == 3003
    now = copy.with_name("now.rdb")
    assert copy_redis(address(live.port), now)["keys"] == 3004
    live.admin.delete("since the save")


def test_a_copy_is_made_again_where_everything_changed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache of some keys, all of which a job writes anew just now."""
    small = RedisServer()
    try:
        small.admin.set("only", 0)
        changes = iter(range(1, 3))

        def change_at_first(self: Redis, keys: list[bytes]) -> dict[bytes, bytes | None]:
            found = {key: self("DUMP", key) for key in keys}
            number = next(changes, None)
            if number is not None:
                small.admin.set("only", number)
            return found

        monkeypatch.setattr("stationkeeper.backup.files.redis_copy._QUIET_S", 0.01)
        monkeypatch.setattr(Redis, "dumps", change_at_first)
        about = copy_redis(address(small.port), tmp_path / "dump.rdb")
        assert (about["keys"], about["compared"]) == (1, 1)
        changes = iter(range(10, 100))
        with pytest.raises(BackupError, match=r"every key .* changed .* \(4 copies were made\)"):
            copy_redis(address(small.port), tmp_path / "dump.rdb")
    finally:
        small.remove()


def test_values_are_compared_by_what_is_in_them(live: RedisServer, tmp_path: Path) -> None:
    """Many fields stand in another order in every process, and what shrank has another form when loaded."""
    live.admin.hset("large", mapping={f"field {number}": number for number in range(2000)})
    live.admin.sadd("large set", *(f"member {number}" for number in range(2000)))
    live.admin.zadd("shrunk", {f"member {number}": number for number in range(300)})
    live.admin.zremrangebyscore("shrunk", 10, 1000)
    live.admin.expire("shrunk", 3600)
    keys = [b"large", b"large set", b"shrunk"]
    target = tmp_path / "values.rdb"
    with Redis(address(live.port)) as server:
        values = server.dumps(keys)
    copy_redis(address(live.port), target)
    with scratch(tmp_path, target, "--enable-debug-command", "local") as loaded:
        assert any(loaded("DUMP", key) != values[key] for key in keys), "this test would prove nothing"
        for key, value in values.items():
            assert value is not None
            assert same_value(loaded, key, value)
        loaded("HSET", "large", "field 7", "another")
        loaded("SREM", "large set", "member 7")
        loaded("ZADD", "shrunk", 8, "member 7")
        for key, value in values.items():
            assert value is not None
            assert not same_value(loaded, key, value)
    live.admin.delete(*keys)


def test_the_copying_user_can_change_nothing(live: RedisServer) -> None:
    for command in ("FLUSHALL", "CONFIG SET appendonly no", "SET a b", "GET key:1", "SHUTDOWN"):
        with pytest.raises(redis.exceptions.NoPermissionError):
            live.client("backup").execute_command(*command.split())


@pytest.mark.parametrize(
    ("before", "after", "read", "different", "said"),
    [
        ((10, 0), (10, 0), 10, [], ""),
        ((10, 0), (14, 0), 12, [], ""),
        ((10, 0), (8, 3), 6, [], ""),
        ((0, 0), (0, 0), 0, [], ""),
        ((10, 0), (10, 0), 9, [], "9 keys, and Redis had 10 to 10"),
        ((10, 0), (10, 0), 0, [], "0 keys"),
        ((10, 0), (10, 0), 10, [b"x"], "other values"),
    ],
)
def test_a_copy_is_judged_by_what_redis_had(
    before: tuple[int, int], after: tuple[int, int], read: int, different: list[bytes], said: str
) -> None:
    told = judge(Contents(*before), Contents(*after), read, different)
    assert (said in told) if said else not told


def test_a_load_is_judged_by_what_had_expired() -> None:
    assert not judge_load(8, 10, 1, {"already_expired": 2})
    assert "loaded 7 keys of the copy, which has 8 to 9" in judge_load(7, 10, 1, {"already_expired": 2})
    assert judge_load(10, 10, 1, {"already_expired": 2})


class OwnRedis:
    """A Redis with an append-only file, that can be stopped and started."""

    def __init__(self, path: Path) -> None:
        self.data = path / "redis"
        self.port = free_port()
        self.configuration = path / "redis.conf"
        digest = sha256(PASSWORD.encode()).hexdigest()
        (path / "users.acl").write_text(f"user default off\nuser backup on #{digest} ~* &* +@all\n")
        self.configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.data}\nappendonly yes\nsave 3600 1\n"
            f"aclfile {path}/users.acl\nlogfile {path}/log\ndaemonize no\n"
        )
        self.data.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("redis-check-rdb")
        command = ["redis-server", str(self.configuration)]
        self._process = subprocess.Popen(command, executable=program, stdin=subprocess.DEVNULL)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def keys(self) -> int:
        """Return how many keys it serves, as soon as it answers."""
        client = redis.Redis(port=self.port, username="backup", password=PASSWORD)
        while True:
            try:
                return int(client.dbsize())  # type: ignore[arg-type]
            except redis.ConnectionError:
                time.sleep(0.02)

    @property
    def server(self) -> Server:
        return Server(self.configuration, self.data, address(self.port), self.stop, self.start, None)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnRedis]:
    made = OwnRedis(tmp_path)
    yield made
    made.stop()


def test_a_copied_dump_is_ignored_beside_an_append_only_file_and_ours_is_served(
    own: OwnRedis, copy: Path
) -> None:
    # The guides' way: stop, copy dump.rdb, start. Redis has nothing, and says nothing.
    shutil.copy(copy, own.data / "dump.rdb")
    own.start()
    assert own.keys() == 0

    planned = restore(own.server, copy, dry_run=True)
    assert (planned["loaded"], planned["kept"]) == (3003, "")
    assert own.keys() == 0

    done = restore(own.server, copy, dry_run=False)
    assert done["served"] == done["loaded"] == 3003
    assert done["compared"] > 100
    assert (Path(done["kept"]) / "dump.rdb").exists()
    # From the append-only file, as every later start.
    own.stop()
    (own.data / "dump.rdb").unlink()
    own.start()
    assert own.keys() == 3003
    assert list(own.data.parent.glob("redis.restore-*")) == []


def test_a_copy_that_is_no_good_touches_nothing(own: OwnRedis, copy: Path, tmp_path: Path) -> None:
    own.start()
    own.keys()
    before = sorted(own.data.rglob("*"))

    def refused(bad: Path, said: str) -> None:
        with pytest.raises(BackupError, match=said):
            restore(own.server, bad, dry_run=False)
        assert own._process is not None
        assert own._process.poll() is None
        assert sorted(own.data.rglob("*")) == before
        assert list(own.data.parent.glob("redis.*-*")) == []

    cut = tmp_path / "cut.rdb"
    cut.write_bytes(copy.read_bytes()[:-200])
    refused(cut, "redis-check-rdb refuses")
    spoilt = tmp_path / "spoilt.rdb"
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    spoilt.write_bytes(content)
    refused(spoilt, "redis-check-rdb refuses")

    other = RedisServer("--enable-debug-command", "yes")
    try:
        empty = tmp_path / "empty.rdb"
        copy_redis(address(other.port), empty)
        refused(empty, "has no key at all")
        # Nobody has looked at it since it expired, so Redis still has it, and saves it.
        other.admin.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", 0)
        other.admin.set("gone", "1", px=1)
        time.sleep(0.01)
        other.admin.save()
        refused(other.directory / "dump.rdb", "have expired")
    finally:
        other.remove()
