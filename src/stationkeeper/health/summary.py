"""The state of a system: the worst of everything that was to be checked.

Silence is never health: a host that could not be reached, or gave no answer at all, is critical, and so is
an answer that is none of the known states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STATES = ("ok", "degraded", "critical")
SYSTEM = "(system)"
_WIDTH = 110


@dataclass(frozen=True)
class Row:
    """One check of one host, or of the system as a whole."""

    host: str
    check: str
    state: str
    message: str


@dataclass(frozen=True)
class Summary:
    """All rows, the worst first, and the worst state of all."""

    state: str
    rows: tuple[Row, ...]

    def counts(self) -> dict[str, int]:
        """Return how many checks are in each state."""
        return {state: sum(row.state == state for row in self.rows) for state in STATES}

    def of_host(self, host: str) -> str:
        """Return the worst state of one host."""
        return worst([row.state for row in self.rows if row.host == host])

    def table(self) -> list[str]:
        """Return lines for a terminal: what is wrong in full, what is right only counted for each host."""
        counts = self.counts()
        head = ", ".join(f"{counts[state]} {state}" for state in reversed(STATES) if counts[state])
        lines = [f"{self.state.upper()}: {head or 'nothing was checked'}"]
        bad = [row for row in self.rows if row.state != "ok"]
        width = max((len(row.host) for row in self.rows), default=0)
        check = max((len(row.check) for row in bad), default=0)
        for row in bad:
            text = " ".join(row.message.split())
            line = f"  {row.state:<8}  {row.host:<{width}}  {row.check:<{check}}  {text}"
            lines.append(line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…")
        for host in dict.fromkeys(row.host for row in self.rows):
            good = [row.check for row in self.rows if row.host == host and row.state == "ok"]
            if good:
                lines.append(f"  ok        {host:<{width}}  {', '.join(dict.fromkeys(good))}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "state": self.state,
            "counts": self.counts(),
            "checks": [
                {"host": row.host, "check": row.check, "state": row.state, "message": row.message}
                for row in self.rows
            ],
        }


def worst(states: Sequence[str]) -> str:
    """Return the worst state; nothing at all is critical."""
    if not states:
        return "critical"
    return max(states, key=STATES.index)


def summarise(
    hosts: Sequence[str],
    unreachable: Mapping[str, str],
    checks: Mapping[str, Sequence[Mapping[str, Any]]],
    system: Sequence[Mapping[str, Any]],
) -> Summary:
    """Put together what was found of every intended host and of the system."""
    rows: list[Row] = []
    for host in hosts:
        found = [_row(host, check) for check in checks.get(host, ())]
        if host in unreachable:
            found.append(Row(host, "reachable", "critical", unreachable[host]))
        elif not found:
            found.append(Row(host, "reachable", "critical", "gave no answer to any check"))
        rows += found
    rows += [_row(SYSTEM, check) for check in system]
    if not system:
        rows.append(Row(SYSTEM, "telemetry", "critical", "the telemetry of the devices was not looked at"))
    rows.sort(key=lambda row: -STATES.index(row.state))
    return Summary(worst([row.state for row in rows]), tuple(rows))


def _row(host: str, check: Mapping[str, Any]) -> Row:
    name = str(check.get("name", "?"))
    state = check.get("state")
    message = str(check.get("message", ""))
    if state not in STATES:
        return Row(host, name, "critical", f"gave no usable state ({state!r}) {message}".rstrip())
    return Row(host, name, str(state), message)
