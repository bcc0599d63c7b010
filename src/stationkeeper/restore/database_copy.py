"""One database out of a restored instance, into the live server under a new name.

Standard library only (psycopg2 is imported where used): Ansible ships this file to the database host.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from ..database.connection import connect
from . import contents
from .dump_make import Source, make_dump
from .dump_restore import Target, restore_database
from .programs import Installation
from .request import RestoreError


def copy_database(
    installation: Installation, restored: Source, live: Target, work: Path
) -> list[contents.Table]:
    """Copy a database and compare every table; return them. ``work`` is a directory that is gone afterwards.

    Raises RestoreError when the new name is taken, and when the copy is not the same; what was begun is
    dropped then.
    """
    postgres = Source(live.socket, live.port, "postgres").settings()
    copy = Source(live.socket, live.port, live.database).settings()
    with closing(connect(postgres)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", (live.database,))
        if cursor.rowcount:
            raise RestoreError(f"database {live.database} exists on the live server; take another name")
        if work.exists():
            shutil.rmtree(work)
        installation.make_directory(work)
        lists = work / "lists"
        installation.make_directory(lists)
        try:
            tables = make_dump(installation, restored, work, datetime.now(UTC))
            restore_database(installation, work, live, lists)
            with closing(connect(copy)) as other, other.cursor() as counting:
                wrong = contents.differences(tables, contents.tables(counting))
            if wrong:
                raise RestoreError(f"the copy is not the same: {'; '.join(wrong[:5])}")
        except BaseException:
            from psycopg2 import sql

            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            cursor.execute(drop.format(sql.Identifier(live.database)))
            raise
        finally:
            shutil.rmtree(work)
    return tables
