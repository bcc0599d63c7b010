"""One slice of one device: its rows go into the table and are proven there, in the caller's transaction.

Into a true hole they are copied straight, inside a savepoint. Where rows are there already, or come in at
that very moment, they go through a temporary table: only what is missing is added, what has other values
under the same key is reported, and nothing that is stored is changed.
"""

from __future__ import annotations

import io
import uuid
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql
from psycopg2.sql import Composable

from stationkeeper.telemetry.backfill.proof import Proof, differences, digest, prove, require_equal, total
from stationkeeper.telemetry.backfill.slices import Slice
from stationkeeper.telemetry.backfill.tables import Table
from stationkeeper.telemetry.source import TelemetryError, rfc3339

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)

_CHUNK = 1 << 17
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

        Raises TelemetryError when what was stored, or what came out of the archive, is not what was promised.
        """
        identifier = str(uuid.uuid4())
        straight = fetched.proof is not None and fetched.rows_of == slice_ and self._is_hole(slice_)
        proof = self._copy_straight(slice_, fetched) if straight else None
        if proof is not None:
            done = Applied(identifier, total(proof), total(proof), 0, digest(proof))
            if done.rows_in:
                self._note(ledger_id, slice_, fetched.source, done)
            return done
        self.stage(fetched)
        rows_in, rows_new = self._insert_missing(slice_)
        done = Applied(identifier, rows_in, rows_new, 0, "")
        if not rows_in:
            return done
        self._note(ledger_id, slice_, fetched.source, done)
        conflicts = self._set_conflicts_apart(identifier, slice_) if rows_new < rows_in else 0
        done = replace(done, conflicts=conflicts, hash=digest(self._prove_stored(slice_)))
        self._cursor.execute(
            sql.SQL("UPDATE {} SET conflicts = %s, hash = %s WHERE id = %s").format(self._ledger("batch")),
            (done.conflicts, done.hash, done.id),
        )
        return done

    def _is_hole(self, slice_: Slice) -> bool:
        self._run(
            sql.SQL("SELECT NOT EXISTS (SELECT 1 FROM {table} AS t WHERE {span})").format(
                table=self._table.identifier, span=_span("t")
            ),
            slice_,
        )
        return self._cursor.fetchone() == (True,)

    def _copy_straight(self, slice_: Slice, fetched: Fetched) -> Proof | None:
        """Return the proof, or None after taking all back: rows came in beside ours."""
        self._cursor.execute("SAVEPOINT straight")
        try:
            self._copy(self._table.identifier, fetched)
            found = self._prove(slice_)
            assert fetched.proof is not None
            if not differences(fetched.proof, found):
                self._cursor.execute("RELEASE SAVEPOINT straight")
                return found
        except psycopg2.errors.UniqueViolation:
            pass
        self._cursor.execute("ROLLBACK TO SAVEPOINT straight")
        return None

    def stage(self, fetched: Fetched) -> None:
        """Bring rows into a temporary table and hold them against the source's proof.

        Raises TelemetryError where they differ. The table is empty again after the transaction.
        """
        self._cursor.execute(
            sql.SQL("CREATE TEMPORARY TABLE IF NOT EXISTS {} (LIKE {}) ON COMMIT DELETE ROWS").format(
                self._stage_name, self._table.identifier
            )
        )
        self._cursor.execute(sql.SQL("DELETE FROM {}").format(self._stage))
        self._copy(self._stage, fetched)
        # Without it the planner takes a filled temporary table for an empty one.
        self._cursor.execute(sql.SQL("ANALYZE {}").format(self._stage))
        if fetched.proof is None:
            self._check_staged(fetched)
        else:
            staged = self._prove(fetched.rows_of, rows=self._stage)
            require_equal(fetched.proof, staged, offered_by=fetched.source, found_in="what it sent")

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
            raise TelemetryError(
                f"{fetched.source} sent {rows - asked_for} rows that nobody asked for: nothing of it is used"
            )
        if rows != moments:
            raise TelemetryError(
                f"{fetched.source} has {rows - moments} times two different rows of device {self._device} at "
                f"one moment between {rfc3339(fetched.rows_of.start)} and {rfc3339(fetched.rows_of.end)}: "
                "which of them is right has to be decided there"
            )

    def _insert_missing(self, slice_: Slice) -> tuple[int, int]:
        parts = self._parts()
        self._run(sql.SQL("SELECT count(*) FROM {stage} AS s WHERE {s_span}").format(**parts), slice_)
        row = self._cursor.fetchone()
        assert row is not None
        self._run(
            sql.SQL(
                "INSERT INTO {table} ({columns}) SELECT {s_columns} FROM {stage} AS s WHERE {s_span}"
                " AND NOT EXISTS (SELECT 1 FROM {table} AS t WHERE t.time = s.time AND {t_span})"
                " ORDER BY s.time ON CONFLICT DO NOTHING"
            ).format(**parts),
            slice_,
        )
        return int(row[0]), self._cursor.rowcount

    def _set_conflicts_apart(self, identifier: str, slice_: Slice) -> int:
        """Report offered rows with other values than the stored ones, and take them out of what is proven."""
        self._run(
            sql.SQL(
                "WITH differing AS (DELETE FROM {stage} AS s USING {table} AS t WHERE t.time = s.time"
                " AND {s_span} AND {t_span} AND ROW({t_columns}) IS DISTINCT FROM ROW({s_columns})"
                " RETURNING s.time, to_jsonb(t) AS stored, to_jsonb(s) AS offered)"
                " INSERT INTO {conflicts} (batch_id, device_id, time, stored, offered)"
                " SELECT %(batch)s, %(device)s, time, stored, offered FROM differing"
            ).format(conflicts=self._ledger("conflict"), **self._parts()),
            slice_,
            batch=identifier,
        )
        return self._cursor.rowcount

    def _prove_stored(self, slice_: Slice) -> Proof:
        """Prove that every offered row that is no conflict is stored as it was offered."""
        staged = self._prove(slice_, rows=self._stage)
        offered = sql.SQL("AND EXISTS (SELECT 1 FROM {} AS s WHERE s.time = r.time)").format(self._stage)
        require_equal(
            staged, self._prove(slice_, also=offered), offered_by="what was offered", found_in="the table"
        )
        return staged

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

    def _parts(self) -> dict[str, Composable]:
        return {
            "stage": self._stage,
            "table": self._table.identifier,
            "columns": self._table.column_list(),
            "s_columns": self._table.column_list("s"),
            "t_columns": self._table.column_list("t"),
            "s_span": _span("s"),
            "t_span": _span("t"),
        }

    def _copy(self, into: Composable, fetched: Fetched) -> None:
        fetched.data.seek(0)
        query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(into, self._table.column_list())
        self._cursor.copy_expert(query, fetched.data, size=_CHUNK)


def _span(alias: str) -> Composable:
    # Constants on the column itself: only the slice's own chunk is looked at.
    return sql.SQL("{0}.device_id = %(device)s AND {0}.time >= %(start)s AND {0}.time < %(end)s").format(
        sql.Identifier(alias)
    )
