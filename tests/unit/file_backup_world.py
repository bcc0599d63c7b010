"""A host's files, and a repository of restic for them, in a temporary directory."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from debian_tools import tool

from stationkeeper.backup.files.restic import Restic
from stationkeeper.backup.files.run import Result, run
from stationkeeper.backup.files.settings import BackupSet, RedisAddress, Settings


class World:
    """One host that saves a configuration and a database; more sets by `add`."""

    def __init__(self, path: Path) -> None:
        self.host = path / "host"
        self.metrics = path / "metrics"
        self.repository = path / "repository"
        for directory in (self.host / "etc", self.host / "data", self.metrics, self.repository):
            directory.mkdir(parents=True)
        (path / "passphrase").write_text("a passphrase of a test\n")
        for number in range(5):
            (self.host / "etc" / f"{number}.conf").write_text(f"setting = {number}\n")
        (self.host / "etc" / "link").symlink_to("1.conf")
        (self.host / "etc" / "0.conf").chmod(0o640)
        self.database = self.host / "data" / "grafana.db"
        with closing(self.connect()) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE pair (a INTEGER, b INTEGER)")
            connection.commit()
        self.settings = Settings(
            host="hub",
            repository=str(self.repository),
            passphrase_file=path / "passphrase",
            ssh_config=None,
            state=path / "state",
            metrics=self.metrics,
            verify_percent=100,
            sample_files=20,
            keep_daily=30,
            keep_monthly=12,
            redis=None,
            sets=(),
        )
        self.add(name="configuration", paths=[self.host / "etc"])
        step = {"type": "sqlite", "path": self.database}
        self.add(name="grafana", paths=[self.host / "data"], before=[step])
        self.settings.state.mkdir(mode=0o700)
        self.restic("init")

    @property
    def restic(self) -> Restic:
        """The program with this host's settings."""
        return Restic(self.settings, str(tool("restic")))

    def add(self, redis: RedisAddress | None = None, **value: Any) -> None:
        """Declare one more set."""
        sets = (*self.settings.sets, BackupSet.of(value))
        self.settings = replace(self.settings, sets=sets, redis=redis or self.settings.redis)

    def connect(self) -> sqlite3.Connection:
        """Open the database as its program does."""
        return sqlite3.connect(self.database, timeout=60)

    def run(self, kind: str = "files") -> Result:
        """Run a backup."""
        return run(self.settings, kind, self.restic)

    def figures(self) -> dict[str, float]:
        """Return what Prometheus reads, by the names without their beginning."""
        lines = [line for path in self.metrics.iterdir() for line in path.read_text().splitlines()]
        pairs = [line.split(" ") for line in lines if not line.startswith("#")]
        return {name.removeprefix("stationkeeper_backup_"): float(value) for name, value in pairs}

    def snapshots(self, name: str) -> list[str]:
        """Return the ids of a set's snapshots."""
        return [one.id for one in self.restic.snapshots() if one.set == name]
