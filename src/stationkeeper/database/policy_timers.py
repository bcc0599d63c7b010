"""Proof that a systemd timer does what no policy does: its service calls the declared function.

Standard library only: Ansible ships this file to the host.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from .policy_declaration import PolicyError, Worker, split_name
from .policy_state import interval

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)

#: Returns the text of the service that a timer starts, or None when the timer is not enabled and active.
ReadTimer = Callable[[str], str | None]


def require(cursor: Cursor, what: str, worker: Worker | None, read_timer: ReadTimer) -> str:
    """Return the text of the worker's service. Raises PolicyError where nobody would do the work."""
    if worker is None:
        raise PolicyError(f"no policy does the {what} here: declare the function and the timer that do")
    cursor.execute(
        "SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        " WHERE n.nspname = %s AND p.proname = %s",
        split_name(worker.function),
    )
    if cursor.fetchone() is None:
        raise PolicyError(f"{what}: the database has no function {worker.function}; run the migrations first")
    text = read_timer(worker.timer)
    if text is None:
        raise PolicyError(
            f"{what}: {worker.timer}.timer is not enabled and active; run site.yml for the host"
        )
    if worker.function not in text:
        raise PolicyError(f"{what}: {worker.timer}.service does not call {worker.function}")
    return text


def require_interval(cursor: Cursor, text: str, worker: Worker, drop_after: str) -> None:
    """Raise PolicyError when the service keeps the rows for another time than the declared one."""
    call = re.search(re.escape(worker.function) + r"\s*\(\s*(?:interval\s*)?'([^']+)'", text)
    if call is None:
        raise PolicyError(f"{worker.timer}.service calls {worker.function} without an interval to be seen")
    kept, declared = interval(cursor, call[1]), interval(cursor, drop_after)
    if kept != declared:
        raise PolicyError(
            f"{worker.timer}.service keeps rows for {kept}, not for {declared}: change timescaledb_jobs"
        )
