"""What a converge in check mode says about hosts that are no longer as declared. Pure logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_OF_A_TASK = ("runner_on_ok", "runner_on_failed", "runner_on_unreachable")


@dataclass
class Drift:
    """What was seen, by host: tasks that would change something, and why a host could not be judged.

    ``ended`` is true when the run came to its end; without it nothing is known.
    """

    hosts: dict[str, list[str]] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    ended: bool = False

    def take(self, event: Mapping[str, Any]) -> bool:
        """Take one event of ansible-runner. Returns False: it need not be kept, and may hold a secret."""
        kind, data = event.get("event"), event.get("event_data") or {}
        if kind == "playbook_on_stats":
            self.ended = True
            # One that is rescued counts as none.
            for host, failures in (data.get("failures") or {}).items():
                if failures:
                    self.unknown.setdefault(host, "a task failed, so the rest was not looked at")
        elif kind in _OF_A_TASK and data.get("host"):
            found = self.hosts.setdefault(data["host"], [])
            if kind == "runner_on_ok" and (data.get("res") or {}).get("changed"):
                role, name = data.get("role"), data.get("task") or "a task without a name"
                found.append(f"{role}: {name}" if role else str(name))
            elif kind == "runner_on_unreachable":
                self.unknown[data["host"]] = "unreachable"
        return False
