"""A consistent copy of a Redis, and the proof that it is one: it is loaded by a server of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .resp import Redis
from .settings import BackupError, RedisAddress

_SAMPLE = 200
#: A job that fills the cache writes for some seconds.
_COPIES = 4
_QUIET_S = 3.0
_TIMEOUT_S = 1800
_USER = "backup"


@dataclass(frozen=True)
class Contents:
    """What a Redis held around a moment: keys, and how many expired so far."""

    keys: int
    expired: int

    @classmethod
    def of(cls, server: Redis) -> Contents:
        """Look at a server."""
        return cls(server.keys(), int(server.info("stats")["expired_keys"]))


def copy_redis(address: RedisAddress, target: Path) -> dict[str, Any]:
    """Write what Redis holds at one moment to a file, prove it, and return what is in it. Raises BackupError.

    The copy goes over the connection (as a replica gets it), so it is as it was at the moment of the call.
    Redis' own files, whichever of them it uses, are not touched. Others write meanwhile, and a small Redis
    may change as a whole within a second: a copy that cannot be proven is made again before it counts.
    """
    problem = ""
    for attempt in range(_COPIES):
        if attempt:
            time.sleep(_QUIET_S)
        problem, about = _copy_once(address, target)
        if not problem:
            return about
    raise BackupError(f"{problem} ({_COPIES} copies were made)")


def _copy_once(address: RedisAddress, target: Path) -> tuple[str, dict[str, Any]]:
    """Return what is wrong with a copy, or nothing, and what is in it."""
    # redis-cli leaves the end of a longer file.
    target.unlink(missing_ok=True)
    with Redis(address) as live:
        before = Contents.of(live)
        keys = live.sample(_SAMPLE)
        values = live.dumps(keys)
        _fetch(address, target)
        # Those that did not change while the copy was made must be in it as they are.
        after = live.dumps(keys)
        steady = {key: value for key, value in values.items() if value is not None and after[key] == value}
        around = Contents.of(live)
    earlier = check_rdb(target)
    with scratch(target.parent, target, "--enable-debug-command", "local") as copy:
        loaded = copy.keys()
        different = [key for key, value in sorted(steady.items()) if not same_value(copy, key, value)]
    checked = check_rdb(target)
    problem = judge(before, around, checked["keys_read"], different)
    problem = problem or judge_load(loaded, checked["keys_read"], earlier["already_expired"], checked)
    if not problem and checked["keys_read"] and loaded and not steady:
        problem = "every key of the sample changed while the copy was made: nothing could be compared"
    return problem, {"keys": loaded, "compared": len(steady), "bytes": target.stat().st_size, **checked}


def same_value(server: Redis, key: bytes, dump: bytes) -> bool:
    """Return whether a key of a private server has the value of a dump of another; its life is not compared.

    By Redis' own digest of what is in a value. Two dumps of one value differ: a hash of many fields has
    them in an order of each process's own, and what once was large has another form until it is loaded.
    """
    other = b"stationkeeper:compared:" + os.urandom(16).hex().encode()
    server("RESTORE", other, 0, dump)
    server("PERSIST", key)
    one, two = server("DEBUG", "DIGEST-VALUE", key, other)
    server("DEL", other)
    return bool(one == two)


def judge(before: Contents, after: Contents, read: int, different: list[bytes]) -> str:
    """Say what is wrong with the keys of a copy, or nothing. Pure.

    Between the looks before and after keys may come and go; the copy is of a moment between.
    """
    if different:
        return f"the copy has other values than Redis for {len(different)} keys, one of them {different[0]!r}"
    expired = after.expired - before.expired
    least, most = min(before.keys, after.keys) - expired, max(before.keys, after.keys) + expired
    if not least <= read <= most:
        return f"the copy has {read} keys, and Redis had {least} to {most}"
    return ""


def judge_load(loaded: int, read: int, expired_before: int, after: dict[str, Any]) -> str:
    """Say what is wrong with the keys that a server loaded of a copy with `read`, or nothing. Pure.

    A server leaves out those that have expired, of which there were some before and are some more after.
    """
    least, most = read - after["already_expired"], read - expired_before
    if not least <= loaded <= most:
        return f"Redis loaded {loaded} keys of the copy, which has {least} to {most}"
    return ""


def check_rdb(path: Path) -> dict[str, Any]:
    """Return how many keys a copy has by Redis' own checker, and its version. Raises BackupError."""
    try:
        done = subprocess.run(
            ["redis-check-rdb", str(path)], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except FileNotFoundError:
        message = "redis-check-rdb is not installed: it comes with redis-tools"
        raise BackupError(message) from None
    said = done.stdout + done.stderr
    read = re.search(r"(\d+) keys read", said)
    if done.returncode != 0 or "RDB looks OK" not in said or read is None:
        last = [line for line in said.splitlines() if line.strip()][-1:] or ["no word"]
        message = f"redis-check-rdb refuses {path}: {last[0]}"
        raise BackupError(message)
    version = re.search(r"redis-ver = '([^']*)'", said)
    gone = re.search(r"(\d+) already expired", said)
    return {
        "keys_read": int(read[1]),
        "already_expired": int(gone[1]) if gone else 0,
        "redis_version": version[1] if version else "",
    }


@contextmanager
def scratch(directory: Path, rdb: Path | None = None, *options: str) -> Iterator[Redis]:
    """Run a private Redis on a Unix socket, with a copy of an RDB file if one is given; nothing of it stays.

    Raises BackupError when it does not load.
    """
    place = Path(tempfile.mkdtemp(prefix=".redis-", dir=directory))
    try:
        if rdb is not None:
            # A link: the server renames a new file over it when it saves, and it is never asked to.
            os.link(rdb, place / "dump.rdb")
        command = ["redis-server", "--dir", str(place), "--appendonly", "no", *options]
        with private(command, place) as server:
            yield server
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def private(command: list[str], place: Path, account: tuple[int, int] | None = None) -> Iterator[Redis]:
    """Run a server without a port, for one user with a random password, and wait until it has its data."""
    password = os.urandom(16).hex()
    # A path of a socket is short: the directory of the data may be deep.
    with tempfile.TemporaryDirectory(prefix="sk-redis-") as near:
        if account:
            os.chown(near, *account)
        users = Path(near) / "users.acl"
        users.write_text(f"user default off\nuser {_USER} on >{password} ~* &* +@all\n")
        if account:
            os.chown(users, *account)
        command = [*command, "--port", "0", "--unixsocket", f"{near}/socket", "--aclfile", str(users)]
        command += ["--save", "", "--daemonize", "no", "--supervised", "no", "--logfile", f"{near}/log"]
        command += ["--pidfile", ""]
        executable = shutil.which("redis-server") or shutil.which("redis-check-rdb")
        if executable is None:
            message = "redis-server is not installed on this host"
            raise BackupError(message)
        # redis-check-rdb is the same program under another name.
        process = subprocess.Popen(
            command,
            executable=executable,
            stdin=subprocess.DEVNULL,
            cwd=place,
            user=account[0] if account else None,
            group=account[1] if account else None,
            extra_groups=[] if account else None,
            umask=0o077,
        )
        try:
            address = RedisAddress("", 0, _USER, password)
            with _ready(address, Path(near), process) as server:
                yield server
        finally:
            process.terminate()
            process.wait()


def _ready(address: RedisAddress, near: Path, process: subprocess.Popen[bytes]) -> Redis:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log = near / "log"
            words = log.read_text(errors="replace").strip().splitlines()[-3:] if log.exists() else []
            message = f"a private Redis could not load the copy: {' '.join(words)}"
            raise BackupError(message)
        if (near / "socket").exists():
            try:
                server = Redis(address, near / "socket", _TIMEOUT_S)
                if server.info("persistence")["loading"] == "0":
                    return server
            except BackupError as error:
                # A server that loads answers nothing but INFO.
                if "does not answer" not in str(error) and "LOADING" not in str(error):
                    raise
        time.sleep(0.05)
    message = "a private Redis did not load the copy in time"
    raise BackupError(message)


def _fetch(address: RedisAddress, target: Path) -> None:
    command = ["redis-cli", "-h", address.host, "-p", str(address.port), "--user", address.user]
    done = subprocess.run(
        [*command, "--no-auth-warning", "--rdb", str(target)],
        # Not among the arguments, which everybody sees.
        env={**os.environ, "REDISCLI_AUTH": address.password},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    if done.returncode != 0 or not target.exists():
        message = f"Redis did not give a copy: {(done.stderr or done.stdout).strip()[-300:]}"
        raise BackupError(message)
