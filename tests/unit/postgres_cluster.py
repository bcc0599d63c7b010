"""A private, temporary PostgreSQL for unit tests."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from free_port import free_port

PASSWORD = secrets.token_hex(16)


def _server_programs() -> Path:
    """Return the directory of the newest installed PostgreSQL server."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[4]))
    if not found:
        pytest.fail("no PostgreSQL server found; install it with: apt-get install postgresql")
    return found[-1].parent


class PostgresCluster:
    """One cluster in a temporary directory, on TCP (scram password) and a Unix socket (trust)."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sk-pg-"))
        self.data = self.directory / "data"
        self.programs = _server_programs()
        self.port = free_port()
        self._databases = 0
        password_file = self.directory / "password"
        password_file.write_text(PASSWORD)
        # initdb refuses root; the account exists wherever the Debian package does.
        self._account = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        if os.geteuid() == 0:
            for path in (self.directory, password_file):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        access = ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password_file}"]
        text = ["--encoding=UTF8", "--locale=C.UTF-8"]
        self._run("initdb", "-D", str(self.data), "--username=postgres", "--no-sync", *access, *text)

    def _run(self, program: str, *arguments: str) -> None:
        privileges: dict[str, Any] = {}
        if os.geteuid() == 0:
            privileges = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        done = subprocess.run(
            [self.programs / program, *arguments],
            check=False,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **privileges,
        )
        assert done.returncode == 0, f"{program} failed:\n{done.stdout}"

    def start(self, **settings: str) -> None:
        """Start the server, with settings beside those of all tests, and wait until it takes connections."""
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.directory} "
            "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=40 "
            "-c shared_buffers=16MB -c autovacuum=off -c log_min_messages=fatal"
        )
        options += "".join(f" -c {name}={value}" for name, value in settings.items())
        log = str(self.directory / "server.log")
        self._run("pg_ctl", "-D", str(self.data), "-w", "-t", "30", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        """Stop the server at once; the data stay, `start` brings them back."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "fast", "stop")

    def remove(self) -> None:
        """Stop the server and delete the cluster."""
        if (self.data / "postmaster.pid").exists():
            self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "immediate", "stop")
        shutil.rmtree(self.directory)

    def settings(self, database: str = "postgres") -> dict[str, Any]:
        """Return the settings that `stationkeeper.database.connection.connect` takes."""
        return {
            "hosts": ["127.0.0.1"],
            "port": self.port,
            "name": database,
            "user": "postgres",
            "password": PASSWORD,
            "sslmode": "prefer",
        }

    def create_database(self) -> dict[str, Any]:
        """Create an empty database and return its settings."""
        self._databases += 1
        name = f"test_{self._databases}"
        connection = psycopg2.connect(
            host=str(self.directory), port=self.port, user="postgres", dbname="postgres"
        )
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name} TEMPLATE template0")
        connection.close()
        return self.settings(name)
