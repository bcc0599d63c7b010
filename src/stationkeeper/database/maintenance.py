"""The weekly maintenance of a database: what is due is done, one thing after another, until its time is over.

Standard library only (psycopg2 comes in with the connection): Ansible ships this file to the database host.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import maintenance_read as reading
from .maintenance_plan import Index, Limits, Table, is_bloated, still_dirty, vacuum_reason
from .maintenance_server import is_standby, session

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)


class MaintenanceError(Exception):
    """The request cannot be carried out; nothing was touched."""


@dataclass(frozen=True)
class Rollup:
    """The rollup to refresh: by a function that returns the changed buckets, or a continuous aggregate."""

    days: int
    function: str | None = None
    view: str | None = None
    role: str | None = None


@dataclass
class Report:
    """What was found and done. ``done``, ``problems`` and ``left`` (for the next time) are sentences."""

    standby: bool = False
    planned: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    bloat_by: str = ""
    freed_bytes: int = 0
    before: dict[str, Any] = field(default_factory=dict)  # as `maintenance_read.figures`
    after: dict[str, Any] = field(default_factory=dict)


def maintain(
    settings: Mapping[str, Any],
    limits: Limits,
    *,
    rollup: Rollup | None = None,
    time_limit_s: float,
    lock_timeout_s: float,
    check: bool,
) -> Report:
    """Maintain the database of ``settings``; with ``check`` only plan. A standby is left alone.

    Raises MaintenanceError for a rollup that the database does not have, and ``psycopg2.Error`` when the
    database cannot be looked at. What a single table or index refuses is in the report's problems.
    """
    report = Report()
    with session(settings, lock_timeout_s=lock_timeout_s, statement_timeout_s=time_limit_s) as connection:
        report.standby = is_standby(connection)
        if report.standby:
            return report
        if rollup is not None:
            _require(connection, rollup)
        report.before = reading.figures(connection)
        work = _Work(connection, limits, report, time.monotonic() + time_limit_s, check)
        work.leftovers()
        if rollup is not None:
            work.refresh(rollup)
        work.vacuum()
        work.reindex()
        report.after = reading.figures(connection)
    return report


def _require(connection: Connection, rollup: Rollup) -> None:
    with connection.cursor() as cursor:
        what = f"{rollup.function}(timestamptz, timestamptz)" if rollup.function else rollup.view
        query = "SELECT to_regprocedure(%s)" if rollup.function else "SELECT to_regclass(%s)"
        cursor.execute(query, (what,))
        row = cursor.fetchone()
        if row is None or row[0] is None:
            raise MaintenanceError(
                f"the database has no {what}, which the inventory's telemetry_rollup names: database_migrate"
            )


class _Work:
    """The steps, each of which does what is due as long as there is time."""

    def __init__(
        self, connection: Connection, limits: Limits, report: Report, deadline: float, check: bool
    ) -> None:
        self.connection = connection
        self.limits = limits
        self.report = report
        self.deadline = deadline
        self.check = check

    def _do(self, what: str, statement: Any, values: tuple[Any, ...] = ()) -> Any:
        """Run one statement; return its first value (True without one), None unless it succeeded."""
        import psycopg2

        self.report.planned.append(what)
        if self.check:
            return None
        seconds = self.deadline - time.monotonic()
        if seconds < 1:
            self.report.left.append(what)
            return None
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(
                    "SELECT set_config('statement_timeout', %s, false)", (f"{int(seconds * 1000)}ms",)
                )
                cursor.execute(statement, values)
                row = cursor.fetchone() if cursor.description else None
        except psycopg2.errors.QueryCanceled as error:
            if time.monotonic() >= self.deadline - 1:
                self.report.left.append(f"{what} (begun, the time was over)")
            else:
                self.report.problems.append(f"{what}: {_first_line(error)}")
            return None
        except psycopg2.errors.LockNotAvailable:
            self.report.problems.append(f"{what}: somebody holds it, database_sessions --check shows who")
            return None
        except psycopg2.Error as error:
            self.report.problems.append(f"{what}: {_first_line(error)}")
            return None
        return row[0] if row else True

    def leftovers(self) -> None:
        """Drop what an interrupted REINDEX left; name other invalid indexes, which somebody meant to have."""
        found, _ = reading.indexes(self.connection, self.limits)
        for index in found:
            if index.leftover:
                self._drop(index)
            elif not index.valid:
                self.report.problems.append(
                    f"index {index.label} is invalid, its CREATE INDEX was interrupted: drop it or REINDEX it"
                )

    def _drop(self, index: Index) -> None:
        from psycopg2 import sql

        what = f"drop {index.label}, left by an interrupted REINDEX of {index.table}"
        name = sql.Identifier(index.schema, index.name)
        if self._do(what, sql.SQL("DROP INDEX CONCURRENTLY {}").format(name)):
            self.report.done.append(what)
            self.report.freed_bytes += index.size

    def refresh(self, rollup: Rollup) -> None:
        """Compute the rollup of the last days again; it counts as done only when it changed something."""
        from psycopg2 import sql

        target = sql.Identifier(*(rollup.function or rollup.view or "").split("."))
        what = f"refresh the rollup of the last {rollup.days} days"
        if rollup.function:
            statement: Any = sql.SQL("SELECT {}(now() - make_interval(days => %s), now())").format(target)
        else:
            statement = sql.SQL(
                "CALL refresh_continuous_aggregate({}, now() - make_interval(days => %s), now())"
            )
            statement = statement.format(sql.Literal(rollup.view))
        with self.connection.cursor() as cursor:
            if rollup.role and not self.check:
                cursor.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(rollup.role)))
            try:
                changed = self._do(what, statement, (rollup.days,))
            finally:
                cursor.execute("RESET ROLE")
        if changed is not None and changed is not True and int(changed) > 0:
            self.report.done.append(f"{what}: {int(changed)} buckets changed")

    def vacuum(self) -> None:
        """Vacuum and analyse what the statistics name, the oldest first."""
        from psycopg2 import sql

        ran: set[str] = set()
        # The parents last, and looked for again: only now are there rows known of below them.
        for parents in (False, True):
            for table, reason in self._due(parents):
                name = sql.Identifier(table.schema, table.name)
                freeze = "FREEZE, " if table.age > self.limits.freeze_age else ""
                verb, command = ("analyse", "ANALYZE") if parents else ("vacuum", f"VACUUM ({freeze}ANALYZE)")
                what = f"{verb} {table.label}: {reason}"
                if self._do(what, sql.SQL(command + " {}").format(name)):
                    self.report.done.append(what)
                    ran.add(table.label)
        if ran:
            self._verify(ran)

    def _due(self, parents: bool) -> list[tuple[Table, str]]:
        due = [
            (table, reason)
            for table in reading.tables(self.connection)
            if table.inherited == parents and (reason := vacuum_reason(table, self.limits))
        ]
        return sorted(due, key=lambda item: (item[0].age <= self.limits.freeze_age, -item[0].dead))

    def _verify(self, ran: set[str]) -> None:
        kept = [
            table
            for table in reading.tables(self.connection)
            if table.label in ran and still_dirty(table, self.limits)
        ]
        if kept:
            holder = reading.holder(self.connection)
            self.report.problems.append(
                f"{len(kept)} tables keep dead or old rows after their vacuum ({_names(kept)}): "
                + (f"{holder} still sees them" if holder else "nothing is known to see them, run it again")
            )

    def reindex(self) -> None:
        """Rebuild bloated indexes one by one beside their use, and measure them again."""
        from psycopg2 import sql

        found, self.report.bloat_by = reading.indexes(self.connection, self.limits)
        bloated = sorted((one for one in found if is_bloated(one, self.limits)), key=lambda one: -one.bloat)
        for index in bloated:
            part, by = index.bloat * 100 // index.size, "measured" if index.measured else "estimated"
            what = f"reindex {index.label}: {part} % of {index.size / 2**20:.0f} MB is bloat ({by})"
            name = sql.Identifier(index.schema, index.name)
            if self._do(what, sql.SQL("REINDEX INDEX CONCURRENTLY {}").format(name)):
                self.report.done.append(what)
        if not bloated or self.check:
            return
        again, _ = reading.indexes(self.connection, self.limits)
        after = {index.label: index for index in again}
        for index in bloated:
            now = after.get(index.label)
            self.report.freed_bytes += index.size - now.size if now else 0
            if now and now.size >= index.size and not any(index.label in one for one in self.report.left):
                self.report.problems.append(f"index {index.label} is no smaller after its REINDEX")
        for index in again:
            # A REINDEX that waited too long leaves its half-built index behind.
            if index.leftover:
                self._drop(index)


def _names(tables: list[Table]) -> str:
    labels = sorted(table.label for table in tables)
    return ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
