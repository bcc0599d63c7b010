"""A server of our own beside the live one: private directory, Unix socket only, no archive, no jobs.

Standard library only (psycopg2 is imported when a connection is made): Ansible ships this file to a host.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..database.connection import connect
from .programs import Installation
from .request import RestoreError

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

# A path of a socket has 107 bytes, its name takes 20 of them.
_LONGEST_DIRECTORY = 85
#: The server refuses to replay WAL with less of these than the one that wrote it had.
_AT_LEAST = {
    "max_connections": "max_connections setting",
    "max_worker_processes": "max_worker_processes setting",
    "max_wal_senders": "max_wal_senders setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
}


@dataclass(frozen=True)
class Server:
    """A private server on ``data``; its log and socket are in ``directory``.

    ``lasting`` data are to become the live cluster's: they survive a power cut, and their WAL is archived.
    """

    installation: Installation
    directory: Path
    port: int
    data: Path
    lasting: bool = False

    @property
    def log(self) -> Path:
        """The server's log, of its last start only."""
        return self.directory / "server.log"

    def settings(self) -> dict[str, str]:
        """Return what it is started with, on the command line, which overrules ALTER SYSTEM."""
        installation = self.installation
        control = installation.control(self.data)
        return {
            "config_file": str(self.directory / "postgresql.conf"),
            "hba_file": str(self.directory / "pg_hba.conf"),
            "ident_file": str(self.directory / "pg_ident.conf"),
            "port": str(self.port),
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "unix_socket_permissions": "0700",
            "shared_preload_libraries": installation.setting("shared_preload_libraries"),
            **{name: control[label] for name, label in _AT_LEAST.items()},
            # A query over a hypertable locks each of its chunks.
            "max_locks_per_transaction": str(max(512, int(control["max_locks_per_xact setting"]))),
            # What the live server owns: its archive, its subscriptions, its standbys, its scheduled jobs.
            **self._durability(),
            "max_logical_replication_workers": "0",
            "synchronous_standby_names": "",
            "primary_conninfo": "",
            "primary_slot_name": "",
            "timescaledb.max_background_workers": "0",
            "timescaledb.telemetry_level": "off",
            "shared_buffers": "128MB",
            "autovacuum": "off",
            "ssl": "off",
            # The log is read: recovery.py.
            "logging_collector": "off",
            "log_destination": "stderr",
            "log_min_messages": "log",
            "log_line_prefix": "%m [%p] ",
            "log_timezone": "UTC",
            "TimeZone": "UTC",
            "lc_messages": "C",
            "hot_standby": "on",
        }

    def _durability(self) -> dict[str, str]:
        if self.lasting:
            # The begin of the new timeline, or nothing could be restored to after it.
            command = self.installation.setting("archive_command")
            return {"archive_mode": "on", "archive_command": command} if command else {"archive_mode": "off"}
        # It can be made again; the live server has the disk first.
        quick = ("archive_mode", "fsync", "full_page_writes", "synchronous_commit")
        return dict.fromkeys(quick, "off")

    def start(self, *, timeout_s: float = 600) -> None:
        """Start it with a new log and wait until it takes connections. Raises RestoreError."""
        if len(str(self.directory)) > _LONGEST_DIRECTORY:
            raise RestoreError(f"{self.directory} is too long for the path of a socket; take a shorter name")
        for name, text in (
            ("postgresql.conf", "# All settings are on the command line.\n"),
            ("pg_hba.conf", "local all all peer map=owner\n"),
            # Whoever may enter the directory is the owner of the files.
            ("pg_ident.conf", "owner /^.*$ postgres\n"),
        ):
            (self.directory / name).write_text(text)
        self.log.unlink(missing_ok=True)
        options = shlex.join(f"--{name}={value}" for name, value in self.settings().items())
        start: list[str | Path] = [
            "-D",
            self.data,
            "-l",
            self.log,
            "-o",
            options,
            "-w",
            "-t",
            str(int(timeout_s)),
            "start",
        ]
        self.installation.run(self.installation.program("pg_ctl", *start))

    def running(self) -> bool:
        """Say whether it runs."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            os.kill(pid, 0)
        except (OSError, ValueError):
            return False
        return True

    def stop(self, *, mode: str = "fast") -> None:
        """Stop it if it runs, and wait. Raises RestoreError."""
        if self.running():
            stop: list[str | Path] = ["-D", self.data, "-m", mode, "-w", "-t", "600", "stop"]
            self.installation.run(self.installation.program("pg_ctl", *stop))

    def connect(self, database: str = "postgres") -> Connection:
        """Connect as superuser. Raises psycopg2's errors."""
        settings = {
            "hosts": [str(self.directory)],
            "port": self.port,
            "name": database,
            "user": "postgres",
        }
        return connect(settings, application_name="stationkeeper-restore", target_session_attrs="any")
