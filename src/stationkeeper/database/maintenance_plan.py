"""What a database needs, judged from its statistics: vacuum, analyse, reindex.

Pure, standard library only: Ansible ships this file to the database host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Names that REINDEX CONCURRENTLY gives: the index that it builds, and the one that it replaced.
_LEFTOVER = re.compile(r"_cc(?:new|old)\d*$")


@dataclass(frozen=True)
class Limits:
    """From where on something is done. Percentages of rows or of an index's size."""

    dead_rows: int = 1000
    dead_percent: float = 10.0
    freeze_age: int = 150_000_000
    bloat_percent: float = 40.0
    bloat_mb: float = 16.0


@dataclass(frozen=True)
class Table:
    """A table or chunk by its statistics; ``age`` is that of its oldest transaction or multixact."""

    schema: str
    name: str
    live: int
    dead: int
    modified: int
    inserted: int
    age: int
    analysed: bool
    inherited: bool = False

    @property
    def label(self) -> str:
        """Return the name with its schema."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Index:
    """A B-tree index: its size and the part of it that a new one would not have, both in bytes."""

    schema: str
    name: str
    table: str
    valid: bool
    size: int
    bloat: int = 0
    measured: bool = False

    @property
    def label(self) -> str:
        """Return the name with its schema."""
        return f"{self.schema}.{self.name}"

    @property
    def leftover(self) -> bool:
        """Whether an interrupted REINDEX CONCURRENTLY left it."""
        return not self.valid and _LEFTOVER.search(self.name) is not None


def vacuum_reason(table: Table, limits: Limits) -> str | None:
    """Return why a table needs VACUUM (ANALYZE), None when it does not."""
    if table.age > limits.freeze_age:
        return f"age {table.age:,} of at most {limits.freeze_age:,}"
    if not table.analysed:
        return "no statistics over its chunks" if table.inherited else "never analysed"
    rows = table.live + table.dead
    for count, what in (
        (table.dead, "dead"),
        (table.modified, "changed since analysed"),
        (table.inserted, "inserted since vacuumed"),
    ):
        share = limits.dead_percent if what == "dead" else max(limits.dead_percent, 20.0)
        if count > limits.dead_rows and count * 100 > share * rows:
            return f"{count:,} of {rows:,} rows {what}"
    return None


def still_dirty(table: Table, limits: Limits) -> bool:
    """Whether a vacuum that ran has left what it was for: something keeps the old rows alive."""
    dead = table.dead > limits.dead_rows and table.dead * 100 > limits.dead_percent * (
        table.live + table.dead
    )
    return dead or table.age > limits.freeze_age


def is_bloated(index: Index, limits: Limits) -> bool:
    """Whether rebuilding an index gives back enough to be worth it."""
    return (
        index.valid
        and index.bloat >= limits.bloat_mb * 2**20
        and index.bloat * 100 >= limits.bloat_percent * index.size
    )


def measured_bloat(
    *, pages: int, leaf_pages: int, internal_pages: int, density: float, fillfactor: int, page_size: int
) -> int:
    """Return the bytes that a new index would save; ``density`` is that of the leaf pages in percent."""
    needed = 1 + internal_pages + leaf_pages * min(1.0, density / fillfactor)
    return max(0, round((pages - needed) * page_size))


def estimated_bloat(*, pages: int, rows: float, key_bytes: float, fillfactor: int, page_size: int) -> int:
    """Return the same from the planner's statistics: rows of average keys, packed as a new index packs them.

    Keys that occur often are stored once by the server, which this does not know: it then finds less bloat
    than there is, never more.
    """
    if rows <= 0:
        return 0
    # A line pointer and a header for each entry, eight bytes aligned; a header and an end for each page.
    entry = 4 + 8 + -(-key_bytes // 8) * 8
    usable = (page_size - 24 - 16) * fillfactor / 100
    needed = 1 + rows * entry / usable * 1.01
    return max(0, round((pages - needed) * page_size))
