"""What a look changes in the ledger, on random histories: rows that come, looks here and there, claims."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise

from stationkeeper.telemetry.ledger_plan import Look, Span, Standing, plan

BASE = datetime(2026, 1, 1, tzinfo=UTC)


def at(minute: int) -> datetime:
    return BASE + timedelta(minutes=minute)


def gaps(rows: set[int], first: int, last: int, planned: range) -> list[Standing]:
    """The gaps of a device with a row a minute, cut at planned work, as a sweep finds them."""
    lead = first - 1
    points = [lead, *sorted(row for row in rows if first <= row < last), last]
    found = []
    for start, end in pairwise(points):
        if end - start < 2:
            continue
        inside = (edge for edge in (planned.start, planned.stop) if start < edge < end)
        edges = sorted({start, end, *inside})
        for a, b in pairwise(edges):
            explained = planned.start <= a and b <= planned.stop
            reason = "work" if explained else None
            found.append(
                Standing(
                    None, Span(at(a), at(b)), max(1, b - a - 1), "explained" if explained else "open", reason
                )
            )
    return found


def apply(
    ledger: list[Standing], changes: tuple[tuple[Standing, ...], ...], numbers: count[int]
) -> list[Standing]:
    insert, update, close = changes
    gone = {entry.id for entry in close}
    new = {entry.id: entry for entry in update}
    kept = [new.get(entry.id, entry) for entry in ledger if entry.id not in gone]
    return [*kept, *(replace(entry, id=next(numbers)) for entry in insert)]


def minutes(entries: list[Standing], *states: str) -> set[int]:
    """The minutes strictly inside the spans, counted in halves so that touching spans stay apart."""
    return {
        half
        for entry in entries
        if entry.state in states
        for half in range(
            int((entry.span.start - BASE).total_seconds()) // 30 + 1,
            int((entry.span.end - BASE).total_seconds()) // 30,
        )
    }


def test_after_a_look_at_everything_the_ledger_is_what_was_found() -> None:
    chance = random.Random(7)
    for _ in range(80):
        numbers = count(1)
        ledger: list[Standing] = []
        rows = {minute for minute in range(60) if chance.random() < 0.5}
        planned = range(0)
        for _ in range(8):
            rows |= {chance.randrange(60) for _ in range(3)}
            if chance.random() < 0.2:
                planned = range(start := chance.randrange(50), start + chance.randint(3, 10))
            if ledger and chance.random() < 0.2:
                held = chance.choice(ledger)
                if held.state == "open":
                    ledger = [replace(e, state="claimed") if e is held else e for e in ledger]
            elif chance.random() < 0.5:
                ledger = [replace(e, state="open") if e.state == "claimed" else e for e in ledger]
            first, last = sorted(chance.sample(range(61), 2))
            for start, end in ((first, last), (0, 60)):
                found = gaps(rows, start, end, planned)
                changes = plan(ledger, found, [Look(Span(at(start), at(end)))], cadence_s=60, k=1.5)
                ledger = apply(ledger, (changes.insert, changes.update, changes.close), numbers)
                again = plan(ledger, found, [Look(Span(at(start), at(end)))], cadence_s=60, k=1.5)
                assert (again.insert, again.update, again.close) == ((), (), ()), (
                    "a second look changed something"
                )
                spans = sorted((e.span.start, e.span.end) for e in ledger)
                assert all(one[1] <= other[0] for one, other in pairwise(spans)), "entries overlap"
            held_minutes = minutes(ledger, "claimed")
            for state in ("open", "explained"):
                truth = minutes(found, state) - held_minutes
                assert minutes(ledger, state) - held_minutes <= truth
                # A border between two entries is in neither; nothing else may be lacking.
                assert all(half % 2 == 0 for half in truth - minutes(ledger, state))


def test_a_look_at_a_gap_leaves_its_short_neighbour_alone() -> None:
    """Only the open gap is looked at again; nobody has found the row of the explained one before it."""
    work = Standing(1, Span(at(4), at(5)), 1, "explained", "work")
    gap = Standing(2, Span(at(5), at(9)), 3, "open")
    found = [replace(gap, id=None)]
    changes = plan([work, gap], found, [Look(gap.span, continued=True)], cadence_s=60, k=1.5)
    assert (changes.insert, changes.update, changes.close) == ((), (), ())
