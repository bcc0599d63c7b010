"""Numbered SQL migrations: what is applied, what is pending, and applying it.

Standard library only (psycopg2 is imported where used): Ansible ships this file to the database host.
The record is the table ``ops.migrations``. A migration that is applied is never edited: a changed or
missing file is refused, since nobody could say any more which schema a database has.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .statements import ScriptError, split

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
# Any fixed number: all sessions that migrate a database must agree on it.
_LOCK = 7_301_846_512
_RECORD = """
CREATE SCHEMA IF NOT EXISTS ops;
CREATE TABLE IF NOT EXISTS ops.migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_by text NOT NULL
);
"""


class MigrationError(Exception):
    """The migrations cannot be read, do not fit the database, or failed; the message names the file."""


@dataclass(frozen=True)
class Migration:
    """One migration file. ``checksum`` is the SHA-256 of its text in UTF-8."""

    version: int
    name: str
    checksum: str
    sql: str

    @property
    def file_name(self) -> str:
        """Name of the file it came from."""
        return f"{self.version:04d}_{self.name}.sql"


@dataclass(frozen=True)
class Applied:
    """One row of ``ops.migrations``."""

    version: int
    name: str
    checksum: str

    @property
    def file_name(self) -> str:
        """Name of the file it came from."""
        return f"{self.version:04d}_{self.name}.sql"


def parse(files: Iterable[tuple[str, str]]) -> list[Migration]:
    """Return the migrations of ``(file name, text)`` pairs in order of their numbers.

    Raises MigrationError for a wrong name, a number that is missing or used twice, and a file that cannot
    run in one transaction.
    """
    migrations: list[Migration] = []
    for file_name, text in files:
        match = _FILE_NAME.fullmatch(file_name)
        if not match:
            raise MigrationError(f"{file_name}: a migration is called NNNN_name.sql (a-z, 0-9 and _)")
        try:
            if not split(text):
                raise MigrationError(f"{file_name}: the file has no statement")
        except ScriptError as error:
            raise MigrationError(f"{file_name}, line {error.line}: {error}") from None
        checksum = hashlib.sha256(text.encode()).hexdigest()
        migrations.append(Migration(int(match[1]), match[2], checksum, text))
    migrations.sort(key=lambda migration: migration.version)
    for expected, migration in enumerate(migrations, start=1):
        if migration.version < expected:
            raise MigrationError(f"{migration.file_name}: the number is used twice")
        if migration.version > expected:
            raise MigrationError(f"{migration.file_name}: number {expected:04d} is missing before it")
    return migrations


def read_directory(directory: Path) -> list[tuple[str, str]]:
    """Return ``(file name, text)`` of every ``.sql`` file, by name. Raises MigrationError."""
    if not directory.is_dir():
        raise MigrationError(f"{directory} is not a directory")
    files = sorted(directory.glob("*.sql"))
    if not files:
        raise MigrationError(f"{directory} has no .sql file")
    try:
        return [(file.name, file.read_text(encoding="utf-8")) for file in files]
    except (OSError, UnicodeDecodeError) as error:
        raise MigrationError(f"{directory}: {error}") from None


def plan(available: Sequence[Migration], applied: Sequence[Applied]) -> list[Migration]:
    """Return the migrations that are still to be applied, in order.

    Raises MigrationError when an applied one has no file any more, has another name or another text.
    """
    by_version = {migration.version: migration for migration in available}
    for row in applied:
        migration = by_version.get(row.version)
        if migration is None:
            raise MigrationError(
                f"{row.file_name} is applied to the database, but its file is missing: "
                "this repository is older than the database, or the file was removed"
            )
        if migration.name != row.name:
            raise MigrationError(f"{migration.file_name} is applied to the database as {row.file_name}")
        if migration.checksum != row.checksum:
            raise MigrationError(
                f"{row.file_name} was changed after it had been applied; restore it and write a new migration"
            )
    done = {row.version for row in applied}
    last = max(done, default=0)
    missing = sorted(set(range(1, last + 1)) - done)
    if missing:
        raise MigrationError(f"ops.migrations lacks {missing[0]:04d} although {last:04d} is applied")
    return [migration for migration in available if migration.version not in done]


def read_applied(connection: Connection) -> list[Applied]:
    """Return the rows of ``ops.migrations`` in order; none when the table does not exist."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('ops.migrations') IS NOT NULL")
        found = cursor.fetchone()
        if not (found and found[0]):
            return []
        cursor.execute("SELECT version, name, checksum FROM ops.migrations ORDER BY version")
        return [Applied(*row) for row in cursor.fetchall()]


def apply(
    connection: Connection,
    available: Sequence[Migration],
    *,
    applied_by: str,
    owner: str | None = None,
    lock_timeout_s: float = 30.0,
) -> list[Migration]:
    """Apply what is pending and return it. Each migration is one transaction together with its record.

    ``owner`` is the role that the migrations run as and that owns what they create. A second session waits
    ``lock_timeout_s`` seconds for its turn, and a statement as long for a table that somebody holds. Raises
    MigrationError; what was applied before stays applied.
    """
    import psycopg2

    connection.rollback()
    with connection.cursor() as cursor:
        try:
            cursor.execute("SET lock_timeout = %s", (f"{int(lock_timeout_s * 1000)}ms",))
            cursor.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
            connection.commit()
        except psycopg2.errors.LockNotAvailable:
            connection.rollback()
            raise MigrationError(
                f"another session migrates this database (waited {lock_timeout_s:g} s)"
            ) from None
    try:
        pending = plan(available, read_applied(connection))
        connection.rollback()
        for migration in pending:
            _apply_one(connection, migration, applied_by, owner, lock_timeout_s)
        return pending
    finally:
        # A session that is lost has given its lock back.
        if not connection.closed:
            connection.rollback()
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))
            connection.commit()


def _apply_one(
    connection: Connection, migration: Migration, applied_by: str, owner: str | None, lock_timeout_s: float
) -> None:
    import psycopg2
    from psycopg2 import sql

    line = 1
    text = ""
    try:
        with connection.cursor() as cursor:
            # What one file sets must not reach the next: each has to mean the same on its own.
            cursor.execute("RESET ROLE")
            cursor.execute("RESET ALL")
            cursor.execute("SET lock_timeout = %s", (f"{int(lock_timeout_s * 1000)}ms",))
            if owner:
                cursor.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(owner)))
            cursor.execute(_RECORD)
            for statement in split(migration.sql):
                line, text = statement.line, statement.text
                cursor.execute(text)
            line, text = 1, ""
            cursor.execute(
                "INSERT INTO ops.migrations (version, name, checksum, applied_by) VALUES (%s, %s, %s, %s)",
                (migration.version, migration.name, migration.checksum, applied_by),
            )
        connection.commit()
    except psycopg2.Error as error:
        if not connection.closed:
            connection.rollback()
        message = " ".join((error.diag.message_primary or str(error)).split())
        details = [part for part in (error.diag.message_detail, error.diag.context) if part]
        position = int(error.diag.statement_position or 1) - 1
        line += text.count("\n", 0, position)
        raise MigrationError(
            "; ".join([f"{migration.file_name}, line {line}: {message}", *details])
        ) from error
