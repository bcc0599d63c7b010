"""A logical dump, back into an empty server or a new database, right also with hypertables.

TimescaleDB's catalog has foreign keys. A parallel `pg_restore` loads it in any order, fails, says so among
much else, and leaves every hypertable empty; so the catalog goes first, by one process. Standard library only
(psycopg2 is imported where used): Ansible ships this file.
"""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..database.connection import connect
from .programs import Installation
from .request import RestoreError

_CATALOG = re.compile(r"(TABLE DATA|SEQUENCE SET) _timescaledb_(catalog|config|cache) ")
_OF_ROLE = re.compile(r'(?:CREATE|ALTER) ROLE "?([^ ";]+)')


@dataclass(frozen=True)
class Target:
    """A server by its socket, and the name of the database that is made there."""

    socket: str
    port: int
    database: str

    def options(self) -> list[str]:
        """Return the options of PostgreSQL's client programs."""
        return ["-h", self.socket, "-p", str(self.port), "-U", "postgres", "--no-password"]


def restore_database(installation: Installation, dump: Path, target: Target, work: Path) -> None:
    """Make the roles and the database of a dump and load it. Raises RestoreError at the first error.

    The database must not exist; roles that do stay as they are. ``work`` is a directory for lists. What is
    loaded is not compared with anything.
    """
    from psycopg2 import sql

    manifest = json.loads((dump / "manifest.json").read_text())
    roles = (dump / "roles.sql").read_text().splitlines()
    with closing(_connect(target, "postgres")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", (target.database,))
        if cursor.rowcount:
            raise RestoreError(f"database {target.database} exists; a dump goes into a new one")
        cursor.execute("SELECT array_agg(rolname) FROM pg_roles")
        there = set((cursor.fetchone() or ([],))[0])
        for statement in roles:
            of = _OF_ROLE.match(statement)
            if statement.startswith("GRANT ") or (of is not None and of[1] not in there):
                cursor.execute(statement)
        make = "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'"
        cursor.execute(sql.SQL(make).format(sql.Identifier(target.database)))
    if manifest["timescaledb"]:
        _prepare(target, manifest["timescaledb"])
    _load(installation, dump / "data", target, work if manifest["timescaledb"] else None)
    with closing(_connect(target)) as connection, connection, connection.cursor() as cursor:
        if manifest["timescaledb"]:
            cursor.execute("SELECT timescaledb_post_restore()")


def _prepare(target: Target, version: str) -> None:
    import psycopg2

    with closing(_connect(target)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            try:
                cursor.execute("CREATE EXTENSION timescaledb VERSION %s", (version,))
            except psycopg2.Error as error:
                reason = str(error).strip()
                raise RestoreError(
                    f"the dump needs TimescaleDB {version}, which the server does not have: {reason}"
                ) from None
            cursor.execute("SELECT timescaledb_pre_restore()")


def _load(installation: Installation, data: Path, target: Target, lists: Path | None) -> None:
    """Load it; ``lists`` is a directory to write into where there are hypertables."""
    restore = installation.program("pg_restore", *target.options(), "--exit-on-error")
    base, parallel = [*restore, f"--dbname={target.database}"], f"--jobs={installation.jobs}"
    if lists is None:
        installation.run([*base, parallel, str(data)])
        return
    contents = installation.run(installation.program("pg_restore", "--list", data)).splitlines()
    first, rest = lists / "catalog.list", lists / "rest.list"
    first.write_text("\n".join(line for line in contents if _CATALOG.search(line)) + "\n")
    rest.write_text("\n".join(line for line in contents if not _CATALOG.search(line)) + "\n")
    installation.run([*base, "--section=pre-data", str(data)])
    installation.run([*base, "--section=data", f"--use-list={first}", str(data)])
    installation.run([*base, "--section=data", f"--use-list={rest}", parallel, str(data)])
    installation.run([*base, "--section=post-data", parallel, str(data)])


def _connect(target: Target, database: str | None = None) -> Any:
    settings = {
        "hosts": [target.socket],
        "port": target.port,
        "name": database or target.database,
        "user": "postgres",
    }
    return connect(settings, application_name="stationkeeper-restore")
