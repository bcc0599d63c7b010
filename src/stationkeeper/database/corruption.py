"""Damage in a database: what was found, and what to do about exactly that.

Pure, standard library only: Ansible ships this file to the database host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

_BAD_BLOCK = re.compile(r"invalid page in block (\d+) of relation (\S+?)[;,\"]?(?:\s|$)")
_BLOCK = re.compile(r"\bblock[ =](\d+)\b|\((\d+),\d+\)")


@dataclass(frozen=True)
class Damage:
    """A damaged place; ``kind`` is heap or index, ``since`` and ``until`` bound the readings it had."""

    kind: str
    relation: str
    table: str
    message: str
    block: int | None = None
    catalog: bool = False
    device_ids: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    mended: bool = False
    parent: str | None = None  # The hypertable of a chunk.

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, times in RFC 3339."""
        return {
            **{
                name: getattr(self, name)
                for name in ("kind", "relation", "table", "message", "block", "mended")
            },
            "device_ids": list(self.device_ids),
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat() if self.until else None,
        }


def bad_page(message: str) -> tuple[int, str] | None:
    """Return the block and the file that the server could not read, None for another error."""
    found = _BAD_BLOCK.search(message)
    return (int(found[1]), found[2].strip('"')) if found else None


def named_block(message: str) -> int | None:
    """Return the first block that amcheck names in a message."""
    found = _BLOCK.search(message)
    return int(found[1] or found[2]) if found else None


def filenode(path: str) -> int | None:
    """Return the file node of a path like ``base/5/16384`` or ``base/5/16384_fsm``."""
    found = re.search(r"/(\d+)(?:_\w+)?(?:\.\d+)?$", path)
    return int(found[1]) if found else None


def mendable(damage: Sequence[Damage]) -> list[Damage]:
    """Return the damaged indexes that can be built anew: those of tables that are whole themselves."""
    broken = {one.table for one in damage if one.kind == "heap"}
    seen: dict[str, Damage] = {}
    for one in damage:
        if one.kind == "index" and not one.catalog and one.table not in broken:
            seen.setdefault(one.relation, one)
    return list(seen.values())


def mended(damage: Iterable[Damage], relations: Iterable[str]) -> list[Damage]:
    """Return the same damage with that of ``relations`` marked as mended."""
    done = set(relations)
    return [replace(one, mended=True) if one.relation in done else one for one in damage]


def describe(damage: Damage) -> str:
    """Return a damage on one line: where it is, and what may have been lost with it."""
    place = f"{damage.kind} {damage.relation}" + (
        f" block {damage.block}" if damage.block is not None else ""
    )
    if damage.mended:
        return f"{place}: mended"
    lost = ""
    if damage.since and damage.until:
        lost = (
            f"; readings of {len(damage.device_ids)} devices between {damage.since.isoformat()} and "
            f"{damage.until.isoformat()} may be lost"
        )
    return f"{place}: {damage.message}{lost}"


def advice(damage: Sequence[Damage], *, standby: bool) -> list[str]:
    """Return what to do next, in order, each with its runbook."""
    left = [one for one in damage if not one.mended]
    if not left:
        return []
    if standby:
        return [
            "this is a standby: look whether the primary is whole (database_corruption there), then make "
            "this copy anew with database_rejoin"
        ]
    steps = []
    indexes = mendable(left)
    if indexes:
        steps.append(f"build {len(indexes)} indexes anew: database_corruption -e mend=reindex")
    heaps = [one for one in left if one.kind == "heap"]
    if heaps:
        steps.append(
            "keep this host's disk as it is. Where database_corruption finds a standby whole, change over to "
            "it with database_switchover and make this copy anew with database_rejoin: nothing is lost"
        )
        tables = ", ".join(sorted({one.parent or one.table for one in heaps}))
        spans = [(one.since, one.until) for one in heaps if one.since and one.until]
        steps.append(f"else bring {tables} back with backup_restore (table, rows_from, rows_to)")
        if spans:
            since, until = min(one for one, _ in spans), max(one for _, one in spans)
            steps.append(
                f"then fill what is missing: telemetry_resync -e resend_since={since.isoformat()}, and "
                f"telemetry_gap_recover -e window_start={since.isoformat()} -e window_end={until.isoformat()}"
            )
    if any(one.catalog for one in left):
        steps.append("the system catalog is damaged: nothing but backup_restore of the whole cluster is safe")
    return steps
