"""Pending stop orders: stations that must still be latched when they come back.

They lie in the pending ledger of `edge_emergency_stop`, so that a runbook run with
`-e runbook_limit_pending=true` and `stationkeeper stop --deliver-pending` take the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from stationkeeper.runbooks.pending import Entry, Ledger

RUNBOOK = "edge_emergency_stop"
# The longest that a ledger keeps: a station that comes back after weeks is to be latched too.
_KEPT = timedelta(days=90)


def ledger(state: Path) -> Ledger:
    """Return the ledger of stop orders in a state directory."""
    return Ledger(state / "pending", RUNBOOK)


def needs_order(latch: Mapping[str, Any]) -> str:
    """Return why a station's latch still has to be set, empty when it stands and survives a reboot."""
    if latch.get("latched"):
        if latch.get("persistent") is False:
            return "latched in memory only: its disk took no latch, a reboot forgets it"
        return ""
    return f"not latched: {latch.get('error') or 'the station gave no answer'}"


def update(
    state: Path,
    outcomes: Iterable[tuple[str, Mapping[str, Any]]],
    *,
    reason: str,
    run_id: str,
    now: datetime,
) -> list[str]:
    """Write an order for each station whose latch does not stand durably, remove those that do.

    ``outcomes`` are pairs of station and latch. Returns the stations that wait. A renewed order keeps the
    reason and the time of the first one. Raises LedgerError or OSError.
    """
    book = ledger(state)
    known = book.due(now)
    add, remove = [], []
    for station, latch in outcomes:
        why = needs_order(latch)
        if not why:
            remove.append(station)
            continue
        first = known.get(station)
        add.append(
            Entry(
                host=station,
                why=why,
                reason=first.reason if first else reason,
                run_id=first.run_id if first else run_id,
                since=now.isoformat(timespec="seconds"),
                expires_at=(now + _KEPT).isoformat(timespec="seconds"),
            )
        )
    _, after = book.update(add=add, remove=remove, now=now)
    return sorted(after)
