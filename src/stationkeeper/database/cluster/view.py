"""The judgement of all looks together: who is primary, who follows, and what is wrong. Pure.

What a host is, is never declared. A standby counts as following only where two views agree: the primary's
list of those that it sends to, and the standby's own receiver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from .node import slot_name

#: A look as ``node.look`` returns it, or None where the host could not be asked.
Look = Mapping[str, Any] | None
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What is still in order: bytes of log, and seconds or days."""

    lag_bytes: int = 16 * MEGABYTE
    slot_bytes: int = 1024 * MEGABYTE
    transaction_s: float = 3600
    certificate_days: float = 21


@dataclass(frozen=True)
class Problem:
    """Something that is wrong: a word for programs, the host it is about, and a sentence."""

    kind: str
    host: str | None
    message: str
    severity: str = "critical"


@dataclass
class View:
    """What all looks say together. ``standbys`` are those that follow the primary in both views."""

    primary: str | None = None
    standbys: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the view for Ansible."""
        return asdict(self)

    def find(self, kind: str, host: str | None, message: str, severity: str = "critical") -> None:
        """Note a problem."""
        self.problems.append(Problem(kind, host, message, severity))


def judge(
    looks: Mapping[str, Look],
    addresses: Mapping[str, str],
    *,
    limits: Limits | None = None,
    synchronous: bool = False,
    now: datetime | None = None,
) -> View:
    """Return what the looks at all database hosts say together.

    ``addresses`` has the address of each host, as a standby's receiver shows it. ``synchronous`` says that at
    least one standby has to be synchronous. Hosts without a peer are judged alone.
    """
    limits = limits or Limits()
    view = View()
    seen = {host: look for host, look in looks.items() if look is not None}
    for host in looks.keys() - seen.keys():
        view.find("unreachable", host, f"{host} cannot be asked")
    primaries = [host for host, look in seen.items() if look["role"] == "primary"]
    if len(primaries) > 1:
        view.find(
            "split_brain",
            None,
            f"{' and '.join(primaries)} are both primary and take writes: stop the one with the older "
            "timeline, then database_rejoin",
        )
    elif primaries:
        view.primary = primaries[0]
    else:
        view.find("no_primary", None, "no host is primary, nobody can write" + _why(seen))
    identifiers = {look["system_identifier"] for look in seen.values() if look["system_identifier"]}
    if len(identifiers) > 1:
        owners = ", ".join(f"{name} {seen[name]['system_identifier']}" for name in sorted(seen))
        view.find(
            "foreign_system", None, f"the hosts hold different databases (system identifiers: {owners})"
        )
    for host, look in seen.items():
        _judge_host(view, host, look, limits, now or datetime.now(UTC))
    if view.primary:
        _judge_primary(view, seen, limits)
        for host in seen:
            if host != view.primary:
                _judge_follower(view, host, seen, addresses, limits)
    if synchronous and view.primary and len(looks) > 1:
        _judge_synchronous(view, seen[view.primary])
    return view


def _why(seen: Mapping[str, Mapping[str, Any]]) -> str:
    stopped = [host for host, look in seen.items() if look["role"] == "stopped" and look["was"] == "primary"]
    return f" ({', '.join(sorted(stopped))} was and is stopped)" if stopped else ""


def _judge_host(view: View, host: str, look: Mapping[str, Any], limits: Limits, now: datetime) -> None:
    if look["role"] in ("absent", "silent"):
        view.find(look["role"], host, f"{host}: {look['message']}")
    if look["pending"]:
        view.find(
            "pending_restart", host, f"{host}: {', '.join(look['pending'])} wait for a restart", "warning"
        )
    if (look["oldest_transaction_s"] or 0) > limits.transaction_s:
        age = look["oldest_transaction_s"]
        view.find("long_transaction", host, f"{host}: a transaction is open for {age:.0f} s", "warning")
    if look["certificate_expires_at"]:
        left = datetime.fromisoformat(look["certificate_expires_at"]) - now
        if left < timedelta(days=limits.certificate_days):
            severity = "critical" if left < timedelta(0) else "warning"
            when = look["certificate_expires_at"]
            view.find("certificate", host, f"{host}: the server's certificate ends at {when}", severity)


def _judge_primary(view: View, seen: Mapping[str, Mapping[str, Any]], limits: Limits) -> None:
    host = view.primary
    for slot in seen[str(host)]["slots"]:
        kept = (slot["retained_bytes"] or 0) // MEGABYTE
        if slot["wal_status"] in ("lost", "unreserved"):
            words = "has lost" if slot["wal_status"] == "lost" else "is about to lose"
            view.find(
                "slot_lost", host, f"slot {slot['name']} {words} log that its standby needs: database_rejoin"
            )
        elif (slot["retained_bytes"] or 0) > limits.slot_bytes:
            view.find("slot_growing", host, f"slot {slot['name']} holds back {kept} MB of log", "warning")


def _judge_follower(
    view: View,
    host: str,
    seen: Mapping[str, Mapping[str, Any]],
    addresses: Mapping[str, str],
    limits: Limits,
) -> None:
    """Why a host does not follow the primary, or that it does."""
    name = slot_name(host)
    look, primary = seen[host], seen[str(view.primary)]
    sent = next((replica for replica in primary["replicas"] if replica["name"] == name), None)
    upstream = look["upstream"]
    if look["role"] == "stopped" and look["was"] == "primary":
        view.find(
            "old_primary", host, f"{host} holds the data of a former primary and is stopped: database_rejoin"
        )
    elif look["role"] == "stopped":
        view.find("standby_stopped", host, f"{host} is a standby and is stopped")
    elif look["role"] == "standby" and (upstream is None or upstream["status"] != "streaming"):
        view.find("not_streaming", host, f"{host} is a standby and receives nothing from {view.primary}")
    elif look["role"] == "standby" and upstream["host"] != addresses[str(view.primary)]:
        view.find(
            "disagree", host, f"{host} receives from {upstream['host']}, not from the primary {view.primary}"
        )
    elif look["role"] == "standby" and (sent is None or sent["state"] != "streaming"):
        state = sent["state"] if sent else "unknown"
        view.find("disagree", host, f"{host} says it follows {view.primary}, for which its state is {state}")
    elif look["role"] == "standby" and sent is not None:
        view.standbys.append(host)
        if (sent["lag_bytes"] or 0) > limits.lag_bytes:
            view.find(
                "lag", host, f"{host} is {sent['lag_bytes'] // MEGABYTE} MB behind {view.primary}", "warning"
            )


def _judge_synchronous(view: View, primary: Mapping[str, Any]) -> None:
    if not primary["synchronous_standby_names"]:
        view.find(
            "not_synchronous",
            view.primary,
            f"{view.primary} waits for no standby: database_rejoin restores it",
        )
    elif not any(replica["sync_state"] in ("sync", "quorum") for replica in primary["replicas"]):
        view.find(
            "not_synchronous",
            view.primary,
            f"{view.primary} has no synchronous standby, and {primary['waiting_commits']} commits wait for "
            "one: start it, or database_run_alone",
        )
