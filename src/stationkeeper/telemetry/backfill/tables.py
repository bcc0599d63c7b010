"""The tables of readings as a database has them: columns and types, and whether a source's columns fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stationkeeper.telemetry.source import READINGS, TelemetryError

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.sql import Composable

#: Types that rows may have; every source and every archive holds these and no others.
TYPES = ("timestamp with time zone", "uuid", "bigint", "integer", "double precision", "text")
KEY = ("device_id", "time")

#: For statements on one slice, some ten thousand rows, in its own transaction: by the index, in its order.
#: The planner, which may know no statistics yet, would read whole tables, sort rows on disk, or start other
#: processes or a compiler, which costs more than it saves.
SLICE_PLANS = (
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off;"
    " SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off"
)

_COLUMNS = """
SELECT attribute.attname, format_type(attribute.atttypid, attribute.atttypmod), attribute.attnotnull
FROM pg_attribute AS attribute
WHERE attribute.attrelid = to_regclass(format('%%I.%%I', %s, %s)) AND attribute.attnum > 0
  AND NOT attribute.attisdropped
ORDER BY attribute.attnum
"""


@dataclass(frozen=True)
class Table:
    """One table of readings. ``columns`` maps names to PostgreSQL's types, in the table's order.

    ``optional`` names those that may be null: rows from before the column was there have none.
    """

    schema: str
    name: str
    columns: Mapping[str, str]
    optional: frozenset[str] = frozenset()

    @property
    def identifier(self) -> Composable:
        """The quoted name."""
        from psycopg2 import sql

        return sql.Identifier(self.schema, self.name)

    def column_list(self, alias: str | None = None, *, by_name: bool = False) -> Composable:
        """Return the quoted columns with commas, each after ``alias`` and a dot where one is given."""
        from psycopg2 import sql

        names = [
            (alias, name) if alias else (name,)
            for name in (sorted(self.columns) if by_name else self.columns)
        ]
        return sql.SQL(", ").join(sql.Identifier(*name) for name in names)


def read_tables(cursor: Cursor, schema: str) -> dict[str, Table]:
    """Return the tables of readings by type of device. Raises TelemetryError for one that is no use."""
    tables = {}
    for kind, name in READINGS.items():
        cursor.execute(_COLUMNS, (schema, name))
        found = cursor.fetchall()
        columns = {str(column): str(type_) for column, type_, _ in found}
        if not columns:
            raise TelemetryError(f"the table {schema}.{name} is not there, or this user may not see it")
        check_columns(f"{schema}.{name}", columns)
        optional = frozenset(str(column) for column, _, never_null in found if not never_null)
        tables[kind] = Table(schema, name, columns, optional)
    return tables


def check_columns(where: str, columns: Mapping[str, Any]) -> None:
    """Refuse columns that rows cannot have: another type, no key, or times without a zone."""
    for name, type_ in columns.items():
        if type_ == "timestamp without time zone":
            raise TelemetryError(f"{where}.{name} is of type {type_}; times without a zone are refused")
        if type_ not in TYPES:
            raise TelemetryError(f"{where}.{name} is of type {type_}, which a back-fill cannot carry")
    for name, type_ in zip(KEY, ("uuid", "timestamp with time zone"), strict=True):
        if columns.get(name) != type_:
            raise TelemetryError(f"{where} needs a column {name} of type {type_}: it is the key of a row")


def check_fit(
    where: str, offered: Mapping[str, str], table: Table, *, lacking: frozenset[str] = frozenset()
) -> None:
    """Refuse a source whose columns differ from those of the target's table; their order does not matter.

    It may lack the columns ``lacking``.
    """
    check_columns(where, offered)
    for name in sorted(offered.keys() | table.columns.keys()):
        mine, theirs = table.columns.get(name), offered.get(name)
        if mine != theirs and not (theirs is None and name in lacking):
            raise TelemetryError(
                f"{where}.{name} is {theirs or 'not there'}, but {table.schema}.{table.name}.{name} is "
                f"{mine or 'not there'}; bring both to the same migration first"
            )
