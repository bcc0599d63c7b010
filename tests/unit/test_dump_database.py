"""Logical dumps: restored and compared before they count, pruned only after that."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from backup_world import stand_in
from postgres_cluster import PostgresCluster

from stationkeeper.database.connection import connect
from stationkeeper.restore.database_copy import copy_database
from stationkeeper.restore.dump import Dumper
from stationkeeper.restore.dump_make import Source
from stationkeeper.restore.dump_restore import Target
from stationkeeper.restore.programs import Installation
from stationkeeper.restore.request import RestoreError

CONTENT = """
CREATE SCHEMA t;
CREATE ROLE dump_owner NOLOGIN;
CREATE TABLE t.readings (n integer PRIMARY KEY, time timestamptz NOT NULL, note text);
INSERT INTO t.readings SELECT n, '2026-01-05T00:00Z'::timestamptz + n * interval '1 second', 'a'
FROM generate_series(1, 5000) n;
ALTER TABLE t.readings OWNER TO dump_owner;
CREATE VIEW t.newest AS SELECT max(time) FROM t.readings;
"""


@pytest.fixture(scope="module")
def dumper(postgres_cluster: PostgresCluster) -> Iterator[Dumper]:
    """A database with a table, and a place for its dumps."""
    settings = postgres_cluster.create_database()
    with closing(connect(settings)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(CONTENT)
    cluster = postgres_cluster
    installation = Installation(
        cluster.programs, cluster.data, cluster.data / "postgresql.conf", "none", jobs=2
    )
    source = Source(str(cluster.directory), cluster.port, settings["name"])
    yield Dumper(installation, source, cluster.directory / "dumps", keep_days=7)
    with closing(connect(settings)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA t CASCADE; DROP ROLE dump_owner")


def test_a_dump_counts_only_when_it_was_restored_and_compared(dumper: Dumper) -> None:
    dumper.installation.make_directory(dumper.base)
    database = dumper.source.database
    old, other = (dumper.base / f"{name}-20200101T000000Z" for name in (database, "other"))
    old.mkdir()
    other.mkdir()
    (dumper.base / f".{database}-20200102T000000Z.part").mkdir()
    # A pg_dump that leaves the rows out, as --schema does with a hypertable, and ends well.
    without_rows = stand_in(dumper.installation, "pg_dump", '"$@" --schema-only')
    with pytest.raises(RestoreError, match=r"not the same: t.readings has 0 rows up to None instead of 5000"):
        replace(dumper, installation=without_rows).run()
    broken = stand_in(dumper.installation, "pg_dump", "/bin/false")
    with pytest.raises(RestoreError, match="failed"):
        replace(dumper, installation=broken).run()
    # Nothing of them is left, and what was there before is.
    assert {path.name for path in dumper.base.iterdir()} == {".lock", old.name, other.name}

    dump = dumper.run()
    assert dumper.existing() == [dump.directory]
    assert dump.pruned == [old.name]
    assert other.exists()
    assert [(table.name, table.rows) for table in dump.tables] == [("t.readings", 5000)]
    manifest = json.loads((dump.directory / "manifest.json").read_text())
    assert manifest["tables"][0]["newest"] == "2026-01-05 01:23:20+00"
    assert "data/toc.dat" in manifest["files"]
    assert "PASSWORD" not in (dump.directory / "roles.sql").read_text()
    assert stat.S_IMODE(dump.directory.stat().st_mode) == 0o700


def test_a_database_is_copied_under_a_new_name_and_compared(dumper: Dumper) -> None:
    source, work = dumper.source, dumper.installation.data.parent / "copying"
    live = Target(source.socket, source.port, "copied")
    tables = copy_database(dumper.installation, source, live, work)
    assert [(table.name, table.rows) for table in tables] == [("t.readings", 5000)]
    assert not work.exists()
    with pytest.raises(RestoreError, match="database copied exists"):
        copy_database(dumper.installation, source, live, work)
    # Rows are lost on the way: nothing of it stays.
    lossy = stand_in(dumper.installation, "pg_restore", '"$@" --schema-only')
    with pytest.raises(RestoreError, match="the copy is not the same"):
        copy_database(lossy, source, replace(live, database="lossy"), work)
    with closing(connect(source.settings())) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT FROM pg_database WHERE datname = 'lossy'")
        assert cursor.rowcount == 0
        connection.rollback()
        connection.autocommit = True
        cursor.execute("DROP DATABASE copied")
