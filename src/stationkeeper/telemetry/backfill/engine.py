"""Recover what the ledger calls missing: claim, fetch, store, prove, settle; one transaction for each slice.

Nothing but the ledger and its batches is state. A run that dies leaves whole slices behind and a lease that
runs out; the next run takes the entry over and goes on with the slices that are not there yet.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg2

from stationkeeper.telemetry import ledger
from stationkeeper.telemetry.backfill import rollup
from stationkeeper.telemetry.backfill.batch import Applied, Batch, Fetched
from stationkeeper.telemetry.backfill.entries import (
    Job,
    done_slices,
    holes,
    read_jobs,
    recovered,
    split_off,
)
from stationkeeper.telemetry.backfill.fetching import SourceFailedError, fetch_ahead
from stationkeeper.telemetry.backfill.pacing import Throttle, replication_lag
from stationkeeper.telemetry.backfill.progress import Progress, Silent
from stationkeeper.telemetry.backfill.proof import OfferError
from stationkeeper.telemetry.backfill.slices import ROWS, Slice, cut
from stationkeeper.telemetry.backfill.sources import Source
from stationkeeper.telemetry.backfill.tables import Table, read_tables
from stationkeeper.telemetry.source import TelemetryError, changing, rfc3339, snapshot

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)


@dataclass(frozen=True)
class Options:
    """How to recover. ``give_up`` is the reason with which gaps that no source can fill are closed."""

    schema: str = "flux"
    sites: Sequence[str] | None = None
    lease_s: float = 300.0
    claim_at_once: int = 4
    slice_rows: int = ROWS
    max_lag_bytes: int | None = None
    give_up: str | None = None
    timeout_s: float = 300.0


@dataclass
class Outcome:
    """What a run did. ``entries`` counts them by the state that they ended in; ``stopped`` says why early."""

    rows_in: int = 0
    rows_new: int = 0
    conflicts: int = 0
    batches: int = 0
    buckets: int = 0
    entries: dict[str, int] = field(default_factory=dict)
    failed_sources: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None

    def add(self, other: Outcome) -> None:
        """Add what another worker did."""
        self.rows_in += other.rows_in
        self.rows_new += other.rows_new
        self.conflicts += other.conflicts
        self.batches += other.batches
        self.buckets += other.buckets
        for state, count in other.entries.items():
            self.entries[state] = self.entries.get(state, 0) + count
        self.failed_sources |= other.failed_sources
        self.stopped = self.stopped or other.stopped


@dataclass
class Shared:
    """What the workers of one run have in common: the order to stop, and the entries that one of them had."""

    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    seen: set[int] = field(default_factory=set)


class Recovery:
    """One worker. Several may run beside each other; the ledger's leases keep them apart."""

    def __init__(
        self,
        connection: Connection,
        sources: Sequence[Source],
        *,
        owner: str,
        options: Options,
        throttle: Throttle | None = None,
        progress: Progress | None = None,
        shared: Shared | None = None,
    ) -> None:
        if not sources:
            raise TelemetryError("no source is given: there is nowhere to recover rows from")
        self._connection = connection
        self._sources = list(sources)
        self._owner = owner
        self._options = options
        self._throttle = throttle or Throttle(None)
        # Two workers may wait behind each other, and no wait may outlast a lease.
        self._slice_rows = self._throttle.rows_within(options.lease_s / 4, at_most=options.slice_rows)
        self._progress = progress or Silent()
        self._shared = shared or Shared()
        self._tables: Mapping[str, Table] = {}
        self._outcome = Outcome()
        self._held: dict[int, ledger.Entry] = {}

    def run(self) -> Outcome:
        """Work through the open entries, newest first.

        A source that cannot answer any more, or sends what it did not promise, is left out and reported; its
        gaps stay open. Raises TelemetryError when the target fails, and before anything is claimed when a
        source does not fit.
        """
        options = self._options
        with snapshot(self._connection, timeout_s=options.timeout_s) as cursor:
            self._tables = read_tables(cursor, options.schema)
        for source in self._sources:
            source.check(self._tables)
        try:
            while self._outcome.stopped is None and not self._shared.stop.is_set():
                entries = self._claim()
                if not entries:
                    break
                self._recover(entries)
        finally:
            # With a broken connection the leases run out by themselves.
            with suppress(TelemetryError, psycopg2.InterfaceError):
                ledger.release(self._connection, list(self._held.values()), schema=options.schema)
        self._outcome.buckets = rollup.refresh(self._connection, options.schema, timeout_s=options.timeout_s)
        return self._outcome

    def _claim(self) -> list[ledger.Entry]:
        """Claim entries that no worker of this run has had: one that was left open is not tried twice."""
        options = self._options
        with self._shared.lock:
            entries = ledger.claim(
                self._connection,
                self._owner,
                schema=options.schema,
                lease_s=options.lease_s,
                limit=options.claim_at_once,
                sites=options.sites,
                seen=sorted(self._shared.seen),
            )
            self._held |= {entry.id: entry for entry in entries}
            self._shared.seen |= self._held.keys()
        return entries

    def _recover(self, entries: Sequence[ledger.Entry]) -> None:
        with snapshot(self._connection, timeout_s=self._options.timeout_s) as cursor:
            jobs = read_jobs(cursor, self._options.schema, entries)
        for entry in entries:
            self._progress.expect(entry.expected)
        for number, source in enumerate(self._sources):
            if source.name in self._outcome.failed_sources:
                continue
            try:
                self._from_source(source, [job for job in jobs if job.gap.id in self._held], number == 0)
            except (SourceFailedError, OfferError) as failure:
                self._outcome.failed_sources[source.name] = str(failure)
            if self._outcome.stopped is not None:
                return
        for job in jobs:
            if job.gap.id in self._held:
                self._finish(job)

    def _from_source(self, source: Source, jobs: Sequence[Job], first: bool) -> None:
        with snapshot(self._connection, timeout_s=self._options.timeout_s) as cursor:
            work = [(job, slice_) for job in jobs for slice_ in self._to_do(cursor, source, job, first)]
        last = {job.gap.id: slice_ for job, slice_ in work}
        for job, slice_, fetched in fetch_ahead(source, self._tables, work):
            self._outcome.stopped = "told to stop" if self._shared.stop.is_set() else self._too_far_behind()
            if self._outcome.stopped is not None:
                return
            applied = self._store(job, slice_, fetched, settle=slice_ is last[job.gap.id])
            self._throttle.spend(applied.rows_in)
            self._progress.done(
                applied.rows_in, f"{job.device.name} {rfc3339(slice_.start)} from {source.name}"
            )

    def _to_do(self, cursor: Cursor, source: Source, job: Job, first: bool) -> list[Slice]:
        """Return what to ask a source for: the whole span at first, then only what is still missing.

        The first source sees the whole span, so that rows which came late are compared with it too.
        """
        options, cadence_s = self._options, job.device.cadence_s
        if not first:
            found = holes(cursor, self._tables[job.device.type], job)
            return [part for hole in found for part in cut(hole.span, cadence_s, rows=self._slice_rows)]
        if job.span is None:
            return []
        done = done_slices(cursor, options.schema, job.gap.id, source.name)
        return [part for part in cut(job.span, cadence_s, rows=self._slice_rows) if part not in done]

    def _store(self, job: Job, slice_: Slice, fetched: Fetched, *, settle: bool) -> Applied:
        """One transaction: the lease, the rows, their proof, their provenance, and the ledger."""
        kind, options = job.device.type, self._options
        complete = False
        with changing(self._connection, timeout_s=options.timeout_s) as cursor:
            self._renew(cursor)
            batch = Batch(cursor, options.schema, kind, self._tables[kind], job.device.id)
            applied = batch.apply(job.gap.id, slice_, fetched)
            if settle and not job.refusal and not holes(cursor, self._tables[kind], job):
                self._settle(cursor, job, "recovered")
                complete = True
        self._outcome.rows_in += applied.rows_in
        self._outcome.rows_new += applied.rows_new
        self._outcome.conflicts += applied.conflicts
        self._outcome.batches += applied.rows_in > 0
        if complete:
            self._ended(job, "recovered")
        return applied

    def _finish(self, job: Job) -> None:
        """Settle an entry that every source was asked about, by what its span looks like now."""
        options = self._options
        with changing(self._connection, timeout_s=options.timeout_s) as cursor:
            self._renew(cursor)
            missing = holes(cursor, self._tables[job.device.type], job)
            rows, _ = recovered(cursor, options.schema, job.gap.id)
            nowhere = f"no source has these rows ({', '.join(source.name for source in self._sources)})"
            failed = "; ".join(self._outcome.failed_sources.values())
            if job.span is None:
                state, reason = "expired", job.refusal
            elif not missing:
                state, reason = ("partial", job.refusal) if job.refusal else ("recovered", "")
            elif rows and not failed:
                state, reason = "partial", job.refusal or nowhere
            elif options.give_up and not failed:
                state, reason = "unrecoverable", f"{options.give_up}: {nowhere}"
            else:
                state, reason = "open", failed or nowhere
            self._settle(cursor, job, state, reason=reason)
            if state == "partial":
                closing = f"{options.give_up}: {nowhere}" if options.give_up else None
                rest = split_off(cursor, options.schema, job.gap, missing, give_up=closing)
                with self._shared.lock:
                    self._shared.seen.update(rest)
        self._ended(job, state)

    def _settle(self, cursor: Cursor, job: Job, state: str, *, reason: str = "") -> None:
        schema = self._options.schema
        rows, names = recovered(cursor, schema, job.gap.id)
        waiting = rows > 0 and rollup.has_rollup(cursor, schema, job.device.type)
        ledger.settle(
            cursor,
            job.gap,
            schema=schema,
            state=state,
            recovered_rows=rows,
            source=names or None,
            reason=reason or None,
            evidence={"rollup": "waiting"} if waiting else {},
        )

    def _renew(self, cursor: Cursor) -> None:
        """Renew the leases of all held entries: those at the end of the queue must not run out meanwhile."""
        for entry in self._held.values():
            ledger.renew(cursor, entry, schema=self._options.schema, lease_s=self._options.lease_s)

    def _ended(self, job: Job, state: str) -> None:
        del self._held[job.gap.id]
        self._outcome.entries[state] = self._outcome.entries.get(state, 0) + 1

    def _too_far_behind(self) -> str | None:
        limit = self._options.max_lag_bytes
        if limit is None:
            return None
        with snapshot(self._connection, timeout_s=self._options.timeout_s) as cursor:
            lag = replication_lag(cursor)
        if lag <= limit:
            return None
        return f"a replica is {lag} bytes behind, the limit is {limit}; run again when it has caught up"
