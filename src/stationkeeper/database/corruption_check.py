"""Look for damage with amcheck, page by page and entry by entry, and build damaged indexes anew.

Standard library only (psycopg2 comes in with the connection): Ansible ships this file to the database host.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .corruption import Damage, bad_page, filenode, mendable, mended, named_block
from .corruption_readings import around
from .maintenance_server import is_standby, session

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

# Of one relation as many are told; the relation is known to be damaged by then.
_MOST = 20

_RELATIONS = """
SELECT c.oid, c.oid::regclass::text, c.relkind = 'i',
    coalesce(i.indrelid, o.oid, c.oid)::regclass::text,
    n.nspname = 'pg_catalog' OR n.nspname = 'pg_toast' AND coalesce(i.indrelid, c.oid) < 16384,
    pg_relation_size(c.oid) / current_setting('block_size')::int,
    coalesce(i.indrelid, o.oid, c.oid)
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_am AS m ON m.oid = c.relam
LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
LEFT JOIN pg_class AS o ON o.reltoastrelid = c.oid
WHERE c.relpersistence = 'p' AND (c.relkind IN ('r', 'm', 't') AND m.amname = 'heap'
    OR c.relkind = 'i' AND m.amname = 'btree' AND i.indisvalid AND i.indisready)
ORDER BY c.relkind = 'i', n.nspname = 'pg_catalog' DESC, 2
"""

_VERIFY = """
SELECT blkno, msg
FROM {amcheck}.verify_heapam(%s::oid::regclass, check_toast => %s, startblock => %s, endblock => %s)
LIMIT 200
"""

_CHECKSUMS = """
SELECT json_build_object('enabled', current_setting('data_checksums')::bool, 'failures',
    coalesce(sum(checksum_failures), 0), 'last', max(checksum_last_failure),
    'now', coalesce(max(checksum_last_failure) >= %s, false))
FROM pg_stat_database WHERE datname = current_database() OR datid = 0
"""


class CorruptionError(Exception):
    """The database cannot be looked at; the message names the fix."""


@dataclass
class Report:
    """What was looked at and found. ``left`` and ``problems`` are sentences."""

    standby: bool = False
    relations: int = 0
    blocks: int = 0
    damage: list[Damage] = field(default_factory=list)
    to_mend: list[str] = field(default_factory=list)
    checksums: dict[str, Any] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def look(
    settings: Mapping[str, Any],
    *,
    tables: Sequence[str] = (),
    time_limit_s: float,
    lock_timeout_s: float,
    mend: bool = False,
    check: bool = False,
) -> Report:
    """Look at the tables and B-tree indexes of a database, of ``tables`` only where they are named.

    ``mend`` builds damaged indexes of undamaged tables anew, beside their use, and looks at them again.
    Raises CorruptionError without amcheck or for an unknown table, and ``psycopg2.Error`` when the database
    cannot be looked at.
    """
    report = Report()
    with session(settings, lock_timeout_s=lock_timeout_s, statement_timeout_s=time_limit_s) as connection:
        report.standby = is_standby(connection)
        if mend and report.standby:
            raise CorruptionError(
                "this is a standby, on which nothing can be mended: make it anew, database_rejoin"
            )
        began = _one(connection, "SELECT clock_timestamp()")
        finder = _Finder(connection, report, time.monotonic() + time_limit_s)
        finder.run(tables)
        report.to_mend = [one.relation for one in mendable(report.damage)]
        if mend and not check:
            report.damage = mended(report.damage, finder.rebuild(report.to_mend))
        # The count stays for ever; what was wrong before this look may be mended since.
        report.checksums = _one(connection, _CHECKSUMS, (began,))
    return report


def _one(connection: Connection, query: str, values: Sequence[Any] = ()) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query, tuple(values) or None)
        row = cursor.fetchone()
        return row[0] if row else None


class _Finder:
    def __init__(self, connection: Connection, report: Report, deadline: float) -> None:
        self.connection = connection
        self.report = report
        self.deadline = deadline
        schema = _one(
            connection, "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'amcheck'"
        )
        if schema is None:
            raise CorruptionError(
                "the database has no extension amcheck: add it to timescaledb_other_extensions of the "
                "inventory and run site.yml, or CREATE EXTENSION amcheck on the primary"
            )
        self.schema = schema

    def run(self, tables: Sequence[str]) -> None:
        """Look at each relation, tables first: an index cannot be compared with an unreadable table."""
        wanted = [_one(self.connection, "SELECT to_regclass(%s)::oid", (name,)) for name in tables]
        unknown = [name for name, oid in zip(tables, wanted, strict=True) if oid is None]
        if unknown:
            raise CorruptionError(f"the database has no table {', '.join(unknown)}")
        with self.connection.cursor() as cursor:
            cursor.execute(_RELATIONS)
            rows = cursor.fetchall()
            if tables:
                cursor.execute(
                    "SELECT inhrelid FROM pg_inherits WHERE inhparent = ANY (%s::oid[])", (wanted,)
                )
                # The chunks of a hypertable are where its rows are.
                chosen = {*wanted, *(child for (child,) in cursor)}
                rows = [row for row in rows if row[-1] in chosen]
        for oid, name, is_index, table, catalog, blocks, _ in rows:
            if time.monotonic() >= self.deadline:
                self.report.left.append(name)
                continue
            self.report.relations += 1
            self.report.blocks += blocks
            try:
                found = self._index(oid, name, table) if is_index else self._heap(oid, name, table, blocks)
            except _TimeOverError:
                self.report.left.append(name)
                continue
            except _RefusedError as error:
                self.report.problems.append(f"{name} could not be looked at: {error}")
                continue
            for one in found:
                damage = Damage(**{**one, "catalog": catalog})
                if damage not in self.report.damage:
                    self.report.damage.append(damage)

    def _query(self, query: str, values: Sequence[Any]) -> tuple[list[Any], str]:
        """Return the rows and no message, or no rows and the damage that the server tells as an error."""
        import psycopg2

        try:
            with self.connection.cursor() as cursor:
                cursor.execute(query.format(amcheck=self.schema), tuple(values))
                return cursor.fetchall(), ""
        except psycopg2.errors.QueryCanceled:
            raise _TimeOverError from None
        except (psycopg2.errors.LockNotAvailable, psycopg2.errors.UndefinedTable) as error:
            raise _RefusedError(_first_line(error)) from None
        except psycopg2.OperationalError:
            # The server is gone: no damage of this relation.
            raise
        except psycopg2.Error as error:
            return [], _first_line(error)

    def _heap(self, oid: int, name: str, table: str, blocks: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        start, end, toast = 0, blocks - 1, True
        while start <= end and len(found) < _MOST:
            rows, message = self._query(_VERIFY, (oid, toast, start, end))
            page = bad_page(message)
            if page is None or (toast and self._owner(page[1]) != oid):
                if page is not None:
                    # A page of its TOAST table, which is looked at by itself.
                    toast = False
                    continue
                found += self._blocks(rows, oid, name, table)
                if message:
                    found.append(self._at(oid, name, table, named_block(message), message))
                break
            # Unreadable: what is before it, then itself, then what is behind it.
            if page[0] > start:
                before, _ = self._query(_VERIFY, (oid, False, start, page[0] - 1))
                found += self._blocks(before, oid, name, table)
            found.append(self._at(oid, name, table, page[0], message))
            start = max(start, page[0]) + 1
        return found[:_MOST]

    def _blocks(self, rows: Sequence[Any], oid: int, name: str, table: str) -> list[dict[str, Any]]:
        first: dict[int, str] = {}
        for block, message in rows:
            first.setdefault(block, message)
        return [self._at(oid, name, table, block, message) for block, message in first.items()]

    def _index(self, oid: int, name: str, table: str) -> list[dict[str, Any]]:
        _, message = self._query("SELECT {amcheck}.bt_index_check(%s::oid::regclass, true)", (oid,))
        if not message:
            return []
        page = bad_page(message)
        if page is not None and self._owner(page[1]) != oid:
            # The table's own damage, found already: what the index is like cannot be said.
            self.report.problems.append(f"{name} could not be compared with its table, which is damaged")
            return []
        block = page[0] if page else named_block(message)
        return [{"kind": "index", "relation": name, "table": table, "message": message, "block": block}]

    def _owner(self, path: str) -> int | None:
        node = filenode(path)
        found = _one(self.connection, "SELECT pg_filenode_relation(0, %s)::oid", (node,)) if node else None
        return int(found) if found is not None else None

    def _at(self, oid: int, name: str, table: str, block: int | None, message: str) -> dict[str, Any]:
        place: dict[str, Any] = {
            "kind": "heap",
            "relation": name,
            "table": table,
            "message": message,
            "block": block,
        }
        place["parent"] = _one(
            self.connection, "SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = %s", (oid,)
        )
        if block is not None:
            since, until, devices = around(self.connection, oid, name, block)
            place |= {"since": since, "until": until, "device_ids": devices}
        return place

    def rebuild(self, names: Sequence[str]) -> list[str]:
        """Build indexes anew and look at them again; return those that are whole now."""
        import psycopg2

        whole = []
        for name in names:
            try:
                with self.connection.cursor() as cursor:
                    # regclass has quoted the name where it must be.
                    cursor.execute(f"REINDEX INDEX CONCURRENTLY {name}")
                oid = _one(self.connection, "SELECT %s::regclass::oid", (name,))
                still = self._index(oid, name, "")
            except (psycopg2.Error, _TimeOverError, _RefusedError) as error:
                self.report.problems.append(f"{name} is not mended: {_first_line(error)}")
                continue
            if still:
                self.report.problems.append(f"{name} is not mended: {still[0]['message']}")
            else:
                whole.append(name)
        return whole


class _TimeOverError(Exception):
    """The statement was cancelled by its time limit."""


class _RefusedError(Exception):
    """The relation is held by somebody, or is gone."""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].removeprefix("ERROR:").strip()
