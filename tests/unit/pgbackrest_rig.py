"""A private PostgreSQL that archives into a private, encrypted repository of pgBackRest, without ssh."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psycopg2
import pytest
from postgres_cluster import PostgresCluster

from stationkeeper.backup.run import Settings

STANZA = "unit"
PASSPHRASE = "correct horse battery staple"


class PgBackRestRig:
    """A cluster, its stanza, and the settings of `stationkeeper.backup` for them."""

    def __init__(self, options: Mapping[str, str] | None = None, ca: Path | None = None) -> None:
        """``options`` are more of pgBackRest's section global; ``ca`` certifies what repository 2 is on."""
        if shutil.which("pgbackrest") is None:
            pytest.fail("no pgbackrest found; install it with: apt-get install pgbackrest")
        self.cluster = PostgresCluster()
        self.directory = self.cluster.directory
        self.account = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self.repository = self.directory / "repository"
        self.config = self.directory / "pgbackrest.conf"
        self.metrics = self.directory / "metrics"
        for path in (self.repository, self.metrics, *(self.directory / name for name in ("log", "spool"))):
            path.mkdir(exist_ok=True)
            self.own(path)
        self.options = {
            "repo1-path": str(self.repository),
            "repo1-cipher-type": "aes-256-cbc",
            "repo1-cipher-pass": PASSPHRASE,
            "repo1-retention-full": "1",
            "repo1-bundle": "y",
            "start-fast": "y",
            "expire-auto": "n",
            "log-path": str(self.directory / "log"),
            "lock-path": str(self.directory / "lock"),
            "compress-type": "zst",
            # A file that cannot be unpacked is tried again for twice this long.
            "io-timeout": "2",
            "archive-timeout": "20",
            **(options or {}),
        }
        if ca is not None:
            # Where that account may read it.
            copied = self.directory / "ca.pem"
            copied.write_bytes(ca.read_bytes())
            self.own(copied)
            self.options["repo2-storage-ca-file"] = str(copied)
        self.configure()
        self._start()
        self.pgbackrest("stanza-create")

    def _start(self) -> None:
        archive = f"pgbackrest\\ --config={self.config}\\ --stanza={STANZA}\\ archive-push\\ %p"
        self.cluster.start(
            archive_mode="on", archive_command=archive, wal_level="replica", max_wal_senders="3"
        )

    def promote(self) -> None:
        """Have the cluster begin a new timeline, as a standby does that becomes the primary."""
        self.cluster.stop()
        signal = self.cluster.data / "standby.signal"
        signal.touch()
        self.own(signal)
        self._start()
        connection = psycopg2.connect(
            host=str(self.directory), port=self.cluster.port, user="postgres", dbname="postgres"
        )
        connection.autocommit = True
        connection.cursor().execute("SELECT pg_promote(true, 60)")
        connection.close()

    def own(self, path: Path) -> None:
        """Give a path to the account that pgBackRest runs as."""
        os.chown(path, self.account.pw_uid, self.account.pw_gid)

    def configure(self, **replaced: str) -> None:
        """Write pgBackRest's configuration; dashes in names are underscores here."""
        options = self.options | {name.replace("_", "-"): value for name, value in replaced.items()}
        lines = ["[global]", *(f"{name}={value}" for name, value in options.items()), f"[{STANZA}]"]
        lines += [f"pg1-path={self.cluster.data}", f"pg1-port={self.cluster.port}", "pg1-user=postgres"]
        lines.append(f"pg1-socket-path={self.directory}")
        self.config.write_text("\n".join(lines) + "\n")
        self.config.chmod(0o600)
        self.own(self.config)

    @property
    def settings(self) -> Settings:
        """Return what `stationkeeper.backup` needs."""
        return Settings(
            STANZA,
            repository_path=self.repository,
            metrics=self.metrics,
            state=self.directory / "state",
            objectives=(("database_full", 86400.0), ("database_diff", 3600.0)),
            user=self.account.pw_name,
            config=str(self.config),
        )

    def pgbackrest(self, command: str, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run pgBackRest itself, as an operator would."""
        done = subprocess.run(
            ["pgbackrest", f"--config={self.config}", f"--stanza={STANZA}", *options, command],
            cwd="/",
            user=self.account.pw_uid if os.geteuid() == 0 else None,
            group=self.account.pw_gid if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout
        return done

    def write(self, rows: int = 1000) -> None:
        """Write rows and end the segment of WAL, so that the next one begins."""
        connection = psycopg2.connect(
            host=str(self.directory), port=self.cluster.port, user="postgres", dbname="postgres"
        )
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE IF NOT EXISTS readings (time timestamptz, value float8)")
        cursor.execute("INSERT INTO readings SELECT now(), random() FROM generate_series(1, %s)", (rows,))
        cursor.execute("SELECT pg_switch_wal()")
        connection.close()

    def segments(self) -> list[Path]:
        """Return the segments of WAL in the repository, oldest first."""
        return sorted(self.repository.glob(f"archive/{STANZA}/*/*/0*-*"))

    def figures(self) -> dict[str, float]:
        """Return the figures for Prometheus, by name and labels."""
        lines = [line for path in self.metrics.glob("*.prom") for line in path.read_text().splitlines()]
        return {
            line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
            for line in lines
            if not line.startswith("#")
        }

    def remove(self) -> None:
        """End the cluster and delete all of it."""
        self.cluster.remove()
