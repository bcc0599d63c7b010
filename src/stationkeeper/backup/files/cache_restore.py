"""Put a copy of Redis back, with an append-only file that has it.

A Redis with `appendonly yes` and no append-only file ignores dump.rdb and starts with nothing. So a private
server loads the copy and writes the append-only file, in a directory of its own beside the data: all of that
is proven before the real server is stopped, and no client ever meets a half-restored one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .redis_copy import check_rdb, judge_load, private
from .resp import Redis
from .settings import BackupError, RedisAddress

_SAMPLE = 200
_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Server:
    """The Redis that gets the data back: its files, how it is asked, and how it is stopped and started."""

    configuration: Path
    data: Path
    address: RedisAddress
    stop: Callable[[], None]
    start: Callable[[], None]
    #: User and group of its files; those of this process when None.
    account: tuple[int, int] | None


def by_systemd(unit: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return how a unit is stopped and started; both raise BackupError."""

    def call(verb: str) -> None:
        done = subprocess.run(["systemctl", verb, unit], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            message = f"systemctl {verb} {unit} failed: {done.stderr.strip()}"
            raise BackupError(message)

    return lambda: call("stop"), lambda: call("start")


def restore(server: Server, copy: Path, *, dry_run: bool) -> dict[str, Any]:
    """Put a copy in place, and prove that Redis serves it. Raises BackupError, OSError.

    The data of before stays under a dated name. Before the server is stopped everything else has happened, so
    that a copy which is no good touches nothing; a dry run ends there.
    """
    checked = check_rdb(copy)
    if not checked["keys_read"]:
        message = f"{copy} has no key at all: it would leave Redis empty. Choose another snapshot"
        raise BackupError(message)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    new = server.data.with_name(f"{server.data.name}.restore-{stamp}")
    try:
        loaded, values = _build(server, copy, new, checked["already_expired"])
        result = {"loaded": loaded, "keys_read": checked["keys_read"], "compared": len(values), "kept": ""}
        if dry_run:
            return result
        kept = server.data.with_name(f"{server.data.name}.before-{stamp}")
        server.stop()
        if server.data.exists():
            server.data.rename(kept)
            result["kept"] = str(kept)
        new.rename(server.data)
        server.start()
    finally:
        shutil.rmtree(new, ignore_errors=True)
    result["served"] = _prove(server, loaded, values)
    return result


def _build(
    server: Server, copy: Path, new: Path, expired_before: int
) -> tuple[int, dict[bytes, bytes | None]]:
    """Make a directory of data out of a copy; return how many keys it has, and some of their values."""
    new.mkdir(mode=0o750)
    rdb = new / "dump.rdb"
    shutil.copyfile(copy, rdb)
    rdb.chmod(0o660)
    if server.account:
        os.chown(new, *server.account)
        os.chown(rdb, *server.account)
    command = ["redis-server", str(server.configuration), "--dir", str(new), "--appendonly", "no"]
    # The name may be another in the configuration of the real one.
    command += ["--dbfilename", rdb.name]
    with private(command, new, server.account) as scratch:
        loaded = scratch.keys()
        checked = check_rdb(copy)
        if not loaded and checked["already_expired"] == checked["keys_read"]:
            message = f"all {checked['keys_read']} keys of {copy} have expired: it would leave Redis empty"
            raise BackupError(message)
        problem = judge_load(loaded, checked["keys_read"], expired_before, checked)
        if problem:
            raise BackupError(problem)
        values = scratch.dumps(scratch.sample(_SAMPLE))
        if _appends(server.configuration):
            scratch("CONFIG", "SET", "appendonly", "yes")
            _wait_for_append_only_file(scratch)
    if not _appends(server.configuration):
        return loaded, values
    if not any(new.glob("*/*.manifest")) and not any(new.glob("*.aof")):
        message = f"Redis wrote no append-only file into {new}"
        raise BackupError(message)
    return loaded, values


def _appends(configuration: Path) -> bool:
    """Return whether the configuration has an append-only file; the last line about it counts."""
    found = re.findall(r"^\s*appendonly\s+\"?(\w+)", configuration.read_text(), re.MULTILINE)
    return bool(found) and found[-1] == "yes"


def _wait_for_append_only_file(scratch: Redis) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        about = scratch.info("persistence")
        busy = {about["aof_rewrite_in_progress"], about["aof_rewrite_scheduled"]} != {"0"}
        if not busy and about["aof_enabled"] == "1":
            if about["aof_last_bgrewrite_status"] == "ok" and about["aof_last_write_status"] == "ok":
                return
            message = "Redis could not write the append-only file of the restored data: is the disk full?"
            raise BackupError(message)
        time.sleep(0.05)
    message = "Redis did not finish the append-only file of the restored data in time"
    raise BackupError(message)


def _prove(server: Server, loaded: int, values: dict[bytes, bytes | None]) -> int:
    """Require that the real server has the keys; return how many. Its clients write and expire meanwhile."""
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        with suppress(BackupError), Redis(server.address) as live:
            about = live.info("persistence")
            if about["loading"] == "0":
                keys, expired = live.keys(), int(live.info("stats")["expired_keys"])
                now = live.dumps(sorted(values))
                break
        if time.monotonic() > deadline:
            message = "Redis does not answer with the restored data"
            raise BackupError(message)
        time.sleep(0.1)
    if _appends(server.configuration) and about["aof_enabled"] != "1":
        message = "Redis runs without its append-only file: see its configuration"
        raise BackupError(message)
    missing = [key for key, value in now.items() if value is None]
    if keys < loaded - expired or len(missing) > expired:
        message = f"Redis serves {keys} keys, and {loaded} were restored ({expired} have expired since)"
        raise BackupError(message)
    return keys
