"""A private, temporary Redis with the inventory's users."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from free_port import free_port

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "words-that-are-in-no-log"
USERS = yaml.safe_load((ROOT / "inventories/flux/group_vars/hubs/main.yml").read_text())["redis_users"]


class RedisServer:
    """One server in a temporary directory, with the inventory's users; all have one password."""

    def __init__(self, *options: str) -> None:
        # Debian's redis-server is this program under another name; its package would start a service.
        program = shutil.which("redis-check-rdb")
        if program is None:
            pytest.fail("no Redis found; install it with: apt-get install redis-tools")
        self.directory = Path(tempfile.mkdtemp(prefix="sk-redis-"))
        self.port = free_port()
        users = ["user default off"]
        users += [
            f"user {one['name']} on #{sha256(PASSWORD.encode()).hexdigest()} {one['rules']}" for one in USERS
        ]
        (self.directory / "users.acl").write_text("\n".join(users) + "\n")
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(self.directory), "--aclfile", str(self.directory / "users.acl")]
        self._process = subprocess.Popen(
            [*command, "--logfile", "server.log", *options], executable=program, stdin=subprocess.DEVNULL
        )
        self.admin = self.client("admin")
        while True:
            try:
                self.admin.ping()
                break
            except redis.ConnectionError:
                assert self._process.poll() is None, (self.directory / "server.log").read_text()
                time.sleep(0.02)

    def client(self, user: str = "flux") -> redis.Redis:
        """Return a client of one of the inventory's users."""
        return redis.Redis(
            port=self.port, username=user, password=PASSWORD, decode_responses=True, socket_timeout=60
        )

    def settings(self, user: str = "flux") -> dict[str, Any]:
        """Return the settings that the modules and the command take."""
        return {"host": "127.0.0.1", "port": self.port, "user": user, "password": PASSWORD}

    def dump(self) -> dict[str, bytes]:
        """Return every key with its value as Redis would save it."""
        raw = redis.Redis(port=self.port, username="admin", password=PASSWORD)
        keys = sorted(raw.scan_iter(count=1000))
        return {key.decode(): raw.dump(key) for key in keys}

    def remove(self) -> None:
        """End the server and forget its data."""
        self.admin.close()
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.directory)
