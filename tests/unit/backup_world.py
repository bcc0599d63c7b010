"""A cluster with pgBackRest and a repository in a directory: what restores are tested against."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from postgres_cluster import PostgresCluster
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

from stationkeeper.database.connection import connect
from stationkeeper.restore.programs import Installation


class BackupWorld:
    """A live cluster that archives, its repository, and a base for scratch instances, in one directory."""

    def __init__(self, *, stanza: str = "test", **settings: str) -> None:
        self.cluster = PostgresCluster()
        self.stanza = stanza
        self.repository = self.cluster.directory / "repository"
        self.base = self.cluster.directory / "restores"
        configuration = self.cluster.directory / "pgbackrest.conf"
        configuration.write_text(
            "[global]\n"
            f"repo1-path={self.repository}\n"
            f"log-path={self.cluster.directory}\n"
            f"lock-path={self.cluster.directory / 'lock'}\n"
            f"spool-path={self.cluster.directory / 'spool'}\n"
            "repo1-retention-full=10\nrepo1-bundle=y\nstart-fast=y\ncompress-type=zst\nlog-level-file=off\n"
            f"[{stanza}]\n"
            f"pg1-path={self.cluster.data}\n"
            f"pg1-socket-path={self.cluster.directory}\n"
            f"pg1-port={self.cluster.port}\n"
        )
        configuration.chmod(0o644)
        self.installation = Installation(
            programs=self.cluster.programs,
            data=self.cluster.data,
            configuration=self.cluster.data / "postgresql.conf",
            stanza=stanza,
            backrest=(f"--config={configuration}",),
        )
        self.installation.run(self.installation.program("pg_checksums", "--enable", "-D", self.cluster.data))
        # The options of the cluster's own start are on one line without quotes.
        archive = f"pgbackrest --config={configuration} --stanza={stanza} archive-push %p"
        with (self.cluster.data / "postgresql.auto.conf").open("a") as lines:
            lines.write(f"archive_command = '{archive}'\n")
        archiving = {"wal_level": "replica", "archive_mode": "on", "max_wal_senders": "3"}
        self.cluster.start(**archiving, track_commit_timestamp="on", **settings)
        self.backrest("stanza-create")

    def backrest(self, *arguments: str) -> str:
        """Run pgBackRest on the live cluster."""
        return self.installation.run(self.installation.pgbackrest(*arguments))

    def backup(self, kind: str = "full") -> None:
        """Take a backup. The repository keeps whole seconds, so what follows is in a later one."""
        self.backrest(f"--type={kind}", "backup")
        time.sleep(1.1)

    def archive(self) -> None:
        """Wait until all that is committed is in the archive."""
        self.backrest("check")

    def connect(self, database: str = "postgres") -> Connection:
        """Connect to the live cluster; every statement is a transaction."""
        connection = connect(self.cluster.settings(database))
        connection.autocommit = True
        return connection

    def remove(self) -> None:
        """Stop all servers and delete everything."""
        for data in self.base.glob("*/data"):
            stop = ["pg_ctl", "-D", data, "-m", "immediate", "stop"]
            if (data / "postmaster.pid").exists():
                self.installation.run(self.installation.program(*stop))
        self.cluster.remove()


def stand_in(installation: Installation, name: str, command: str) -> Installation:
    """Return the installation with a program replaced; in ``command`` "$@" is the real call."""
    programs = Path(tempfile.mkdtemp(dir=installation.data.parent))
    for program in installation.programs.iterdir():
        (programs / program.name).symlink_to(program)
    (programs / name).unlink()
    real = installation.programs / name
    text = command.replace('"$@"', f'{real} "$@"')
    (programs / name).write_text(f"#!/bin/sh\nexec {text}\n")
    (programs / name).chmod(0o755)
    programs.chmod(0o755)
    return replace(installation, programs=programs)
