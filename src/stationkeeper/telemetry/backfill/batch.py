"""One slice of one device: its rows go into the table and are proven there, in the caller's transaction.

Into a true hole they are copied straight. Where rows are there already, they go through a temporary table:
only what is missing is added, what has other values under the same key is reported, and nothing that is
stored is changed. Afterwards the slice holds exactly what was there before and what was added; when it does
not, other rows came in at that very moment, and all is taken back to a savepoint and done again.
"""

from __future__ import annotations

import io
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql
from psycopg2.sql import Composable

from stationkeeper.telemetry.backfill.proof import (
    HOUR_OF,
    Hour,
    OfferError,
    Proof,
    differences,
    digest,
    prove,
    require_equal,
    row_hash,
    together,
    total,
    without,
)
from stationkeeper.telemetry.backfill.slices import Slice
from stationkeeper.telemetry.backfill.tables import SLICE_PLANS, Table
from stationkeeper.telemetry.source import TelemetryError, rfc3339

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)

_CHUNK = 1 << 17
_ATTEMPTS = 3
_STAGE = "backfill_{kind}"


@dataclass(frozen=True)
class Fetched:
    """What a source gave for a slice: a COPY stream of the rows of ``rows_of``, and their proof by hour."""

    source: str
    rows_of: Slice
    data: io.BytesIO
    proof: Proof | None


@dataclass(frozen=True)
class Applied:
    """What one slice came to. ``hash`` is the digest of the proof that source and target have in common."""

    id: str
    rows_in: int
    rows_new: int
    conflicts: int
    hash: str


class Batch:
    """Puts fetched rows of one device into the target; every method belongs to the caller's transaction."""

    def __init__(self, cursor: Cursor, schema: str, kind: str, table: Table, device: str) -> None:
        self._cursor = cursor
        self._schema = schema
        self._table = table
        self._device = device
        self._stage = sql.Identifier("pg_temp", _STAGE.format(kind=kind))
        self._stage_name = sql.Identifier(_STAGE.format(kind=kind))

    def apply(self, ledger_id: int | None, slice_: Slice, fetched: Fetched) -> Applied:
        """Add the rows of a slice that are missing, prove them, and note where they came from.

        Raises OfferError when what came is not what the source promised, and TelemetryError.
        """
        self._cursor.execute(SLICE_PLANS)
        for attempt in range(1, _ATTEMPTS + 1):
            self._cursor.execute("SAVEPOINT slice")
            # Another session has added the same row at this very moment.
            with suppress(psycopg2.errors.UniqueViolation):
                applied = self._try(ledger_id, slice_, fetched, careful=attempt == _ATTEMPTS)
                if applied is not None:
                    self._cursor.execute("RELEASE SAVEPOINT slice")
                    return applied
            self._cursor.execute("ROLLBACK TO SAVEPOINT slice")
        raise TelemetryError(
            f"device {self._device}: rows between {rfc3339(slice_.start)} and {rfc3339(slice_.end)} kept "
            f"changing while they were recovered from {fetched.source}; run again later"
        )

    def _try(
        self, ledger_id: int | None, slice_: Slice, fetched: Fetched, *, careful: bool
    ) -> Applied | None:
        """Return None when rows came in beside ours: what is there now has to be looked at again.

        With ``careful`` the rows are looked at before they are stored: perhaps it is they that are wrong.
        """
        identifier = str(uuid.uuid4())
        before = self._prove(slice_)
        whole = fetched.proof is not None and fetched.rows_of == slice_
        if fetched.proof is not None and whole and not before and not careful:
            added = common = fetched.proof
            self._copy(self._table.identifier, fetched)
            done = Applied(identifier, total(added), total(added), 0, digest(common))
            if done.rows_in:
                self._note(ledger_id, slice_, fetched.source, done)
        else:
            offered = self.stage(fetched, thorough=careful or not whole)
            if fetched.rows_of != slice_:
                offered = self._prove(slice_, rows=self._stage)
            done = Applied(identifier, total(offered), 0, 0, "")
            if not done.rows_in:
                return done
            self._note(ledger_id, slice_, fetched.source, done)
            there, conflicts = self._set_apart(identifier, slice_) if before else ({}, {})
            added, common = without(offered, there), without(offered, conflicts)
            self._insert(slice_)
            done = replace(done, rows_new=total(added), conflicts=total(conflicts), hash=digest(common))
            self._complete(done)
        return None if differences(self._prove(slice_), together(before, added)) else done

    def stage(self, fetched: Fetched, *, thorough: bool = True) -> Proof:
        """Bring rows into a temporary table and return their proof, which is the source's if that has one.

        Raises OfferError where they differ; unless ``thorough``, the source is believed until they are
        stored. The table is empty again after the transaction.
        """
        self._cursor.execute(
            sql.SQL("CREATE TEMPORARY TABLE IF NOT EXISTS {} (LIKE {}) ON COMMIT DELETE ROWS").format(
                self._stage_name, self._table.identifier
            )
        )
        self._cursor.execute(sql.SQL("TRUNCATE {}").format(self._stage))
        self._copy(self._stage, fetched)
        # The planner knows nothing about a temporary table, nor about rows that came in a moment ago. Both
        # sides of the join are one slice, so a hash join is right; a nested loop takes minutes. There is no
        # index on the temporary table.
        self._cursor.execute("SET LOCAL enable_nestloop = off; SET LOCAL enable_seqscan = on")
        if fetched.proof is not None and not thorough:
            return fetched.proof
        staged = self._prove(fetched.rows_of, rows=self._stage)
        self._check_staged(fetched)
        if fetched.proof is not None:
            require_equal(fetched.proof, staged, offered_by=fetched.source, found_in="what it sent")
        return staged

    def _check_staged(self, fetched: Fetched) -> None:
        """Check what a proof would show: that the rows are the ones asked for, each of them once."""
        self._run(
            sql.SQL(
                "SELECT count(*), count(*) FILTER (WHERE {}), count(DISTINCT s.time) FROM {} AS s"
            ).format(_span("s"), self._stage),
            fetched.rows_of,
        )
        row = self._cursor.fetchone()
        assert row is not None
        rows, asked_for, moments = row
        if rows != asked_for:
            raise OfferError(
                f"{fetched.source} sent {rows - asked_for} rows that nobody asked for: nothing of it is used"
            )
        if rows != moments:
            raise OfferError(
                f"{fetched.source} has {rows - moments} times two rows of device {self._device} at "
                f"one moment between {rfc3339(fetched.rows_of.start)} and {rfc3339(fetched.rows_of.end)}: "
                "which of them is right has to be decided there"
            )

    def _set_apart(self, identifier: str, slice_: Slice) -> tuple[Proof, Proof]:
        """Take rows out of the offered ones whose key is there, and report those with other values.

        Returns the proofs of all of them, and of the reported ones, as they were offered.
        """
        self._run(
            sql.SQL(
                "WITH there AS (DELETE FROM {stage} AS s USING {table} AS t"
                " WHERE t.time = s.time AND {s_span} AND {t_span}"
                " RETURNING s.time, {hour} AS hour, {hash} AS hash, to_jsonb(t) AS stored,"
                " to_jsonb(s) AS offered, ROW({t_columns}) IS DISTINCT FROM ROW({s_columns}) AS differs),"
                " reported AS (INSERT INTO {conflicts} (batch_id, device_id, time, stored, offered)"
                " SELECT %(batch)s, %(device)s, time, stored, offered FROM there WHERE differs)"
                " SELECT hour, count(*), bit_xor(hash), count(*) FILTER (WHERE differs),"
                " bit_xor(hash) FILTER (WHERE differs) FROM there GROUP BY hour"
            ).format(
                stage=self._stage,
                table=self._table.identifier,
                conflicts=self._ledger("conflict"),
                hour=HOUR_OF.format(sql.Identifier("s")),
                hash=row_hash(self._table, "s"),
                s_columns=self._table.column_list("s"),
                t_columns=self._table.column_list("t"),
                s_span=_span("s"),
                t_span=_span("t"),
            ),
            slice_,
            batch=identifier,
        )
        there, conflicts = {}, {}
        for hour, rows, hash_, differing, their_hash in self._cursor.fetchall():
            there[hour.astimezone(UTC)] = Hour(int(rows), int(hash_))
            if differing:
                conflicts[hour.astimezone(UTC)] = Hour(int(differing), int(their_hash))
        return there, conflicts

    def _insert(self, slice_: Slice) -> None:
        """Add the offered rows that are left, in the order in which they were sent."""
        self._run(
            sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} AS s WHERE {}").format(
                self._table.identifier,
                self._table.column_list(),
                self._table.column_list("s"),
                self._stage,
                _span("s"),
            ),
            slice_,
        )

    def _complete(self, done: Applied) -> None:
        self._cursor.execute(
            sql.SQL("UPDATE {} SET rows_new = %s, conflicts = %s, hash = %s WHERE id = %s").format(
                self._ledger("batch")
            ),
            (done.rows_new, done.conflicts, done.hash, done.id),
        )

    def _prove(self, span: Slice, **of: Composable) -> Proof:
        return prove(self._cursor, self._table, self._device, span.start, span.end, **of)

    def _note(self, ledger_id: int | None, slice_: Slice, source: str, done: Applied) -> None:
        self._run(
            sql.SQL(
                "INSERT INTO {} (id, ledger_id, device_id, span, source, rows_in, rows_new, conflicts, hash)"
                " VALUES (%(id)s, %(ledger)s, %(device)s, tstzrange(%(start)s, %(end)s), %(source)s,"
                " %(rows_in)s, %(rows_new)s, %(conflicts)s, %(hash)s)"
            ).format(self._ledger("batch")),
            slice_,
            ledger=ledger_id,
            source=source,
            **asdict(done),
        )

    def _ledger(self, what: str) -> Composable:
        return sql.Identifier(self._schema, f"mg_backfill_{what}")

    def _run(self, query: Composable, slice_: Slice, **values: Any) -> None:
        values |= {"device": self._device, "start": slice_.start, "end": slice_.end}
        self._cursor.execute(query, values)

    def _copy(self, into: Composable, fetched: Fetched) -> None:
        fetched.data.seek(0)
        query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(into, self._table.column_list())
        self._cursor.copy_expert(query, fetched.data, size=_CHUNK)


def _span(alias: str) -> Composable:
    # Constants on the column itself: only the slice's own chunk is looked at.
    return sql.SQL("{0}.device_id = %(device)s AND {0}.time >= %(start)s AND {0}.time < %(end)s").format(
        sql.Identifier(alias)
    )
