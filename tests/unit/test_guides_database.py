"""The guides' commands about the database and its backups as typed, and what is done here instead.

Beside them: tar and `find -mtime` in test_file_backup_run.py and test_file_backup_restore.py, dumps as points
in time in test_restore_scratch.py, `pg_restore -j2` of hypertables in tests/database/test_30_restore.py.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from postgres_cluster import PostgresCluster

from stationkeeper.database import maintenance_monthly, sessions
from stationkeeper.database.connection import connect
from stationkeeper.restore.dump import Dump, Dumper
from stationkeeper.restore.dump_make import Source
from stationkeeper.restore.dump_restore import Target, restore_database
from stationkeeper.restore.programs import Installation
from stationkeeper.restore.request import RestoreError

# A hypertable's rows lie in another schema, in tables that inherit from it.
CONTENT = """
CREATE SCHEMA flux;
CREATE SCHEMA chunks;
CREATE TABLE flux.mg_bess_readings (n integer PRIMARY KEY, time timestamptz NOT NULL);
CREATE TABLE chunks.one (PRIMARY KEY (n)) INHERITS (flux.mg_bess_readings);
INSERT INTO chunks.one SELECT n, '2026-01-05T00:00Z'::timestamptz + n * interval '1 minute'
FROM generate_series(1, 100) n;
CREATE TABLE flux.mg_device_registry (id integer PRIMARY KEY);
INSERT INTO flux.mg_device_registry VALUES (1);
"""
ROWS = 100


class World:
    """A database with such rows, the guides' shell, and our dump of it."""

    def __init__(self, cluster: PostgresCluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self.settings = cluster.create_database()
        self.name = self.settings["name"]
        with closing(connect(self.settings)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(CONTENT)
        installation = Installation(cluster.programs, cluster.data, cluster.data / "postgresql.conf", "none")
        self.source = Source(str(cluster.directory), cluster.port, self.name)
        self.dumper = Dumper(installation, self.source, cluster.directory / "guide-dumps", keep_days=7)
        self.dump: Dump = self.dumper.run()

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of a guide, with the server it means."""
        return subprocess.run(
            ["bash", "-c", command],
            env={
                "PATH": f"{self.cluster.programs}:/usr/bin:/bin",
                "PGHOST": str(self.cluster.directory),
                "PGPORT": str(self.cluster.port),
                "PGUSER": "postgres",
                "D": str(self.directory),
                "DB": self.name,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def rows(self, database: str) -> int:
        """Count the readings of a database."""
        with closing(connect(self.cluster.settings(database))) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM flux.mg_bess_readings")
            return int((cursor.fetchone() or (0,))[0])


@pytest.fixture(scope="module")
def world(postgres_cluster: PostgresCluster, tmp_path_factory: pytest.TempPathFactory) -> World:
    """One for all: nothing here changes it."""
    return World(postgres_cluster, tmp_path_factory.mktemp("guides"))


@pytest.mark.parametrize("which", ["--schema=flux", '--table="flux.mg_*_readings"'])
def test_a_dump_of_a_schema_or_of_tables_has_no_readings(world: World, which: str) -> None:
    """Flux: Database Backup, full and telemetry only."""
    done = world.shell(f'pg_dump -d "$DB" {which} -f "$D/flux_backup.sql"')
    assert done.returncode == 0
    copied = (world.directory / "flux_backup.sql").read_text().split("COPY flux.mg_bess_readings")[1]
    assert copied.split("\n")[1] == "\\."
    # Ours has them, which was proven by restoring it.
    assert {table.name: table.rows for table in world.dump.tables}["flux.mg_bess_readings"] == ROWS


def test_a_dump_has_no_where(world: World) -> None:
    """Flux: the last seven days. Rows of a range are put back out of a restore: test_restore_rows.py."""
    done = world.shell("""pg_dump -d "$DB" --where="time > now() - interval '7 days'" -f "$D/week.sql" """)
    assert done.returncode != 0
    assert "unrecognized option" in done.stderr


def test_a_restore_over_what_is_there_fails_in_silence(world: World) -> None:
    """Flux, Abbanoa, Smart Grid: psql < backup, onto the database that is there."""
    world.shell('pg_dump -d "$DB" -f "$D/all.sql"')
    done = world.shell('psql -d "$DB" < "$D/all.sql"')
    assert done.returncode == 0
    assert done.stderr.count("ERROR") >= 4
    target = Target(str(world.cluster.directory), world.cluster.port, world.name)
    with pytest.raises(RestoreError, match="a dump goes into a new one"):
        restore_database(world.dumper.installation, world.dump.directory, target, world.directory)
    new = Target(str(world.cluster.directory), world.cluster.port, "guides_restored")
    restore_database(world.dumper.installation, world.dump.directory, new, world.directory)
    assert world.rows("guides_restored") == ROWS


def test_a_pipe_hides_that_the_dump_failed_and_the_good_ones_are_deleted(world: World) -> None:
    """Abbanoa, Smart Grid: Daily Backup."""
    old = world.directory / "old.sql.gz"
    old.write_text("the last good one")
    dump = 'pg_dump no_such_database | gzip > "$D/new.sql.gz" || exit 1'
    prune = 'find "$D" -name "*.sql.gz" -mtime +30 -delete'
    world.shell('touch -d "60 days ago" "$D/old.sql.gz"')
    assert world.shell(f"{dump}; {prune}").returncode == 0
    assert not old.exists()
    kept = world.dumper.base / "no_such_database-20200101T000000Z"
    kept.mkdir()
    nowhere = Source(world.source.socket, world.source.port, "no_such_database")
    with pytest.raises(psycopg2.OperationalError, match="does not exist"):
        Dumper(world.dumper.installation, nowhere, world.dumper.base, keep_days=7).run()
    assert kept.exists()
    assert world.dump.directory.exists()


def test_the_last_line_of_psql_is_no_answer(world: World) -> None:
    """Smart Grid: health check."""
    assert world.shell("psql -c 'SELECT 42' | tail -1").stdout.strip() == ""
    assert world.shell("psql -c 'SELECT 42' | grep . | tail -1").stdout.strip() == "(1 row)"
    assert world.shell("psql -XAtqc 'SELECT 42'").stdout == "42\n"


def test_unused_indexes_are_neither_found_nor_unused(world: World) -> None:
    """Abbanoa, Smart Grid: review indexes. Keys are used by every insert, whatever their scans are."""
    done = world.shell('psql -d "$DB" -c "SELECT schemaname, tablename, indexname FROM pg_stat_user_indexes"')
    assert 'column "tablename" does not exist' in done.stderr
    query = "SELECT indexrelname FROM pg_stat_user_indexes WHERE idx_scan = 0"
    assert "mg_bess_readings_pkey" in world.shell(f'psql -XAtd "$DB" -c "{query}"').stdout
    with closing(connect(world.settings)) as connection:
        assert maintenance_monthly.unused(connection, 0) == []


def test_slow_queries_have_no_mean_time(world: World) -> None:
    """Smart Grid: high latency. Ours: database_slow_queries."""
    world.shell('psql -d "$DB" -c "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"')
    done = world.shell('psql -d "$DB" -c "SELECT query, calls, mean_time FROM pg_stat_statements"')
    assert 'column "mean_time" does not exist' in done.stderr


def test_all_sessions_but_ones_own_are_not_the_stuck_ones(world: World) -> None:
    """Smart Grid: kill stuck connections. Counted only: it would end the server's own processes too."""
    with closing(connect(world.settings)) as working, closing(connect(world.settings)) as stuck:
        working.autocommit = True
        with stuck.cursor() as cursor, working.cursor() as other:
            cursor.execute("SELECT pg_backend_pid()")
            pid = (cursor.fetchone() or (0,))[0]
            other.execute("SELECT backend_type FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            would_end = [kind for (kind,) in other.fetchall()]
        assert "checkpointer" in would_end
        assert [one.pid for one in sessions.idle(sessions.read(working), 0, world.name)] == [pid]


def test_a_standby_is_not_promoted_by_a_program(world: World) -> None:
    """Fulsk: Database Failover. It is SQL, and a primary refuses it. Ours: database_failover."""
    assert shutil.which("pg_promote", path=f"{world.cluster.programs}:/usr/bin:/bin") is None
    assert "recovery is not in progress" in world.shell("psql -c 'SELECT pg_promote()'").stderr


def test_a_resolution_in_metadata_that_is_null_is_lost(world: World) -> None:
    """Abbanoa: Resolve Anomalies. Ours has columns for it: test_anomalies.py."""
    update = "SELECT jsonb_set(NULL, '{resolution}', '\\\"False positive\\\"') IS NULL"
    assert world.shell(f'psql -XAtqc "{update}"').stdout == "t\n"
