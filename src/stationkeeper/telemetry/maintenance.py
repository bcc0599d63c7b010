"""Planned maintenance of stations, as recorded in the database: begun, prolonged, ended.

A record explains missing telemetry (`explanations`), so it must not claim more than was planned: a plan that
has run out is never prolonged afterwards, a new one begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stationkeeper.telemetry.source import (
    MAINTENANCE,
    TelemetryError,
    changing,
    check_sites,
    has_table,
    rfc3339,
    snapshot,
)

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Wish:
    """Maintenance that somebody begins. ``since`` is the order's own beginning; None means now."""

    site: str
    planned_until: datetime
    reason: str
    owner: str
    run_id: str
    since: datetime | None = None


@dataclass(frozen=True)
class Maintenance:
    """One row. Times are UTC; ``id`` is None for one that check mode only foresees."""

    id: int | None
    site: str
    started_at: datetime
    planned_until: datetime
    ended_at: datetime | None
    reason: str
    owner: str
    run_id: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain data with times as RFC 3339 text."""
        return {
            "id": self.id,
            "site": self.site,
            "started_at": rfc3339(self.started_at),
            "planned_until": rfc3339(self.planned_until),
            "ended_at": rfc3339(self.ended_at) if self.ended_at else None,
            "reason": self.reason,
            "owner": self.owner,
            "run_id": self.run_id,
        }


@dataclass(frozen=True)
class Change:
    """The open maintenance of a site before and after; None where there is none."""

    changed: bool
    before: Maintenance | None
    after: Maintenance | None


@dataclass(frozen=True)
class Step:
    """What to write: the end of the open row, a row to insert, or the values that replace the open row's."""

    end_open_at: datetime | None = None
    insert: Maintenance | None = None
    replace: Maintenance | None = None


def plan_begin(wish: Wish, standing: Maintenance | None, last_end: datetime | None, now: datetime) -> Step:
    """Decide what a wish needs. Pure. ``last_end`` is the end of the site's newest ended maintenance.

    Raises TelemetryError for a plan that ends before it begins, or that would change the past.
    """
    if standing is not None:
        if (standing.planned_until, standing.reason) == (wish.planned_until, wish.reason):
            return Step()
        if wish.planned_until <= now:
            raise TelemetryError(
                f"the maintenance of {wish.site} cannot end in the past ({rfc3339(wish.planned_until)}); "
                "end it instead"
            )
        if standing.planned_until > now:
            return Step(replace=_row(wish, standing.started_at, standing.id))
        # The time between the two plans was not planned by anybody.
        return Step(end_open_at=standing.planned_until, insert=_row(wish, now))
    # The station's clock may be ahead, and an earlier record has already said what happened until its end.
    start = min(wish.since or now, now)
    start = max(start, last_end) if last_end is not None else start
    if wish.planned_until <= start:
        raise TelemetryError(
            f"the maintenance of {wish.site} would end at {rfc3339(wish.planned_until)}, "
            f"before it begins at {rfc3339(start)}"
        )
    return Step(insert=_row(wish, start))


def begin(connection: Connection, wish: Wish, *, schema: str = "flux", check: bool = False) -> Change:
    """Record maintenance, or a new end or reason of the open one. Raises TelemetryError."""
    from psycopg2 import sql

    for name in ("reason", "owner"):
        if not getattr(wish, name).strip():
            raise TelemetryError(f"maintenance needs {'a reason' if name == 'reason' else 'an owner'}")
    table = sql.Identifier(schema, MAINTENANCE)
    with (snapshot if check else changing)(connection, timeout_s=_TIMEOUT_S) as cursor:
        _prepare(cursor, schema, wish.site, lock=not check)
        standing = _open(cursor, schema, wish.site)
        cursor.execute(
            sql.SQL("SELECT max(ended_at), now() FROM {} WHERE site = %s").format(table), (wish.site,)
        )
        last_end, now = cursor.fetchone() or (None, None)
        assert now is not None
        step = plan_begin(wish, standing, last_end, now)
        if check:
            return Change(step != Step(), standing, step.insert or step.replace or standing)
        if step.end_open_at is not None and standing is not None:
            cursor.execute(
                sql.SQL("UPDATE {} SET ended_at = %s WHERE id = %s").format(table),
                (step.end_open_at, standing.id),
            )
        if (row := step.insert) is not None:
            cursor.execute(
                sql.SQL(
                    "INSERT INTO {} (site, started_at, planned_until, reason, owner, run_id)"
                    " VALUES (%s, %s, %s, %s, %s, %s)"
                ).format(table),
                (row.site, row.started_at, row.planned_until, row.reason, row.owner, row.run_id),
            )
        if (row := step.replace) is not None:
            cursor.execute(
                sql.SQL(
                    "UPDATE {} SET planned_until = %s, reason = %s, owner = %s, run_id = %s WHERE id = %s"
                ).format(table),
                (row.planned_until, row.reason, row.owner, row.run_id, row.id),
            )
        return Change(step != Step(), standing, _open(cursor, schema, wish.site))


def end(connection: Connection, site: str, *, schema: str = "flux", check: bool = False) -> Change:
    """Record that the open maintenance of a site ended now; none is no change. Raises TelemetryError."""
    from psycopg2 import sql

    with (snapshot if check else changing)(connection, timeout_s=_TIMEOUT_S) as cursor:
        _prepare(cursor, schema, site, lock=not check)
        standing = _open(cursor, schema, site)
        if standing is not None and not check:
            cursor.execute(
                sql.SQL("UPDATE {} SET ended_at = now() WHERE id = %s").format(
                    sql.Identifier(schema, MAINTENANCE)
                ),
                (standing.id,),
            )
        return Change(standing is not None, standing, None)


def query(connection: Connection, site: str, *, schema: str = "flux") -> Change:
    """Return the open maintenance of a site as it is. Raises TelemetryError."""
    with snapshot(connection, timeout_s=_TIMEOUT_S) as cursor:
        _prepare(cursor, schema, site, lock=False)
        standing = _open(cursor, schema, site)
        return Change(False, standing, standing)


def _row(wish: Wish, start: datetime, identifier: int | None = None) -> Maintenance:
    return Maintenance(
        identifier,
        wish.site,
        start.astimezone(UTC),
        wish.planned_until,
        None,
        wish.reason,
        wish.owner,
        wish.run_id,
    )


def _prepare(cursor: Cursor, schema: str, site: str, *, lock: bool) -> None:
    """Refuse a database without the table and a site that the registry does not know; one writer a site."""
    if not has_table(cursor, schema, MAINTENANCE):
        raise TelemetryError(f"{schema}.{MAINTENANCE} does not exist: run the migrations first")
    check_sites(cursor, schema, [site])
    if lock:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s), hashtext(%s))", (MAINTENANCE, site))


def _open(cursor: Cursor, schema: str, site: str) -> Maintenance | None:
    from psycopg2 import sql

    cursor.execute(
        sql.SQL(
            "SELECT id, site, started_at, planned_until, reason, owner, run_id FROM {}"
            " WHERE site = %s AND ended_at IS NULL"
        ).format(sql.Identifier(schema, MAINTENANCE)),
        (site,),
    )
    row = cursor.fetchone()
    if row is None:
        return None
    identifier, name, started_at, planned_until, reason, owner, run_id = row
    return Maintenance(
        identifier,
        name,
        started_at.astimezone(UTC),
        planned_until.astimezone(UTC),
        None,
        reason,
        owner,
        run_id,
    )
