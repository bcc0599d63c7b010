"""What a converge in check mode says about hosts that are no longer as declared. Pure logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Drift:
    """What was seen, by host: tasks that would change something, and why a host could not be judged."""

    hosts: dict[str, list[str]] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any]) -> bool:
        """Take one event of ansible-runner; nothing of it has to be kept, which it asks by the result."""
        data = event.get("event_data") or {}
        host, result = data.get("host"), data.get("res") or {}
        if not host:
            return False
        kind = event.get("event")
        if kind in ("runner_on_ok", "runner_on_failed", "runner_on_unreachable"):
            found = self.hosts.setdefault(host, [])
            name = str(data.get("task") or "a task without a name")
            role = data.get("role")
            if kind == "runner_on_ok" and result.get("changed"):
                found.append(f"{role}: {name}" if role else name)
            # One that is rescued or ignored says what it has to by another task.
            elif kind == "runner_on_unreachable":
                self.unknown[host] = "unreachable"
        return False

    def finish(self, stats: Mapping[str, Mapping[str, int]]) -> None:
        """Take the numbers at the end: a host with failures was not looked at to the end."""
        for host, count in (stats.get("failures") or {}).items():
            if count:
                self.unknown.setdefault(host, "a task failed, so the rest was not looked at")
