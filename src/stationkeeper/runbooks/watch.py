"""What the control node has seen of the hosts of the run under way.

The callback `runbook_watch` fills these in Ansible's main process; every task's worker is forked from
it, so the action plugin that closes the runbook finds them here.
"""

from __future__ import annotations

from stationkeeper.runbooks.closing import Observed

_watching: list[bool] = []
_unreachable: dict[str, str] = {}
_failed: dict[str, str] = {}


def start() -> None:
    """Begin to watch; forgets an earlier run of this process."""
    _watching[:] = [True]
    _unreachable.clear()
    _failed.clear()


def saw_unreachable(host: str, task: str, message: str) -> None:
    """Note that a task could not reach `host` (the first such task counts)."""
    _unreachable.setdefault(host, f"became unreachable in task `{task}`: {message}")


def saw_failed(host: str, task: str, message: str) -> None:
    """Note that a task failed on `host` (the first such task counts)."""
    _failed.setdefault(host, f"task `{task}` failed: {message}")


def observed() -> Observed:
    """What was seen so far."""
    return Observed(bool(_watching), dict(_unreachable), dict(_failed))
