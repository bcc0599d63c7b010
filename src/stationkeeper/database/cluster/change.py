"""Which host becomes primary, and what must be out of the way before. Pure: the runbooks act on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .node import lsn_bytes
from .view import Limits, Look, View, judge

#: Problems that no switchover makes worse.
HARMLESS = ("pending_restart", "certificate", "slot_growing", "not_synchronous")


@dataclass(frozen=True)
class Change:
    """A change of the primary.

    ``act`` is false where ``primary`` is primary already. ``fence`` has the hosts that must be stopped
    before, ``trusted`` those of which a person said that they are, ``lacks_bytes`` how much log the new
    primary lacks as far as anybody knows. With a ``refusal`` nothing may happen.
    """

    primary: str | None = None
    old: str | None = None
    act: bool = False
    fence: list[str] = field(default_factory=list)
    trusted: list[str] = field(default_factory=list)
    lacks_bytes: int | None = None
    refusal: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the change for Ansible."""
        return asdict(self)


def failover(
    looks: Mapping[str, Look],
    *,
    confirmed: Collection[str] = (),
    new_primary: str | None = None,
    insist: bool = False,
) -> Change:
    """Return whom to make primary after the primary is lost: the most advanced of those that can be asked.

    ``confirmed`` names hosts that cannot be asked and of which a person says that they are off for good.
    ``new_primary`` chooses another one. ``insist`` fails over although a primary answers.
    """
    seen = {host: look for host, look in looks.items() if look is not None}
    if refusal := _unknown(looks, [*confirmed, *([new_primary] if new_primary else [])]):
        return Change(refusal=refusal)
    identifiers = {look["system_identifier"] for look in seen.values() if look["system_identifier"]}
    if len(identifiers) > 1:
        return Change(
            refusal="the hosts hold different databases (system identifiers): look with database_status"
        )
    primaries = [host for host, look in seen.items() if look["role"] == "primary"]
    if len(primaries) == 1 and not insist and new_primary in (None, primaries[0]):
        primary = primaries[0]
        fence = [h for h, look in seen.items() if look["role"] == "stopped" and look["was"] == "primary"]
        return Change(primary=primary, fence=fence, lacks_bytes=0)
    if len(primaries) == 1 and not insist:
        return Change(
            refusal=f"{primaries[0]} is primary and answers: database_switchover changes it without a loss "
            "(although_primary_answers=true fails over nevertheless)"
        )
    return _elect(looks, seen, primaries, set(confirmed), new_primary)


def _elect(
    looks: Mapping[str, Look],
    seen: Mapping[str, Mapping[str, Any]],
    primaries: list[str],
    confirmed: set[str],
    new_primary: str | None,
) -> Change:
    candidates = _candidates(seen, primaries)
    if new_primary and new_primary not in candidates:
        state = seen[new_primary]["message"] if new_primary in seen else "it cannot be asked"
        return Change(refusal=f"{new_primary} cannot become primary: {state}")
    if not candidates:
        return Change(
            refusal="no host that answers has data to become primary: backup_restore brings them back"
        )
    ranks = {
        host: (seen[host]["timeline"] or 0, lsn_bytes(seen[host]["lsn"] or "0/0")) for host in candidates
    }
    best = new_primary or max(sorted(candidates), key=lambda host: ranks[host])
    if len(primaries) > 1 and not new_primary and len({ranks[host][0] for host in primaries}) == 1:
        return Change(
            refusal=f"{' and '.join(primaries)} are both primary: say new_primary, the other is fenced"
        )
    others = [host for host in looks if host != best]
    silent = [host for host in others if host not in seen]
    if refusal := _unconfirmed(silent, confirmed, "may still take writes"):
        return Change(refusal=refusal)
    fence = [host for host in others if host in seen and not _harmless(seen[host])]
    old = primaries[0] if primaries and primaries[0] != best else None
    old = old or next((host for host in fence if seen[host]["was"] == "primary"), None)
    ahead = [lsn_bytes(seen[host]["lsn"]) for host in fence if seen[host]["lsn"]]
    lacks = max(0, max(ahead) - ranks[best][1]) if ahead and not silent else None
    old = old or (silent[0] if silent else None)
    return Change(primary=best, old=old, act=True, fence=fence, trusted=silent, lacks_bytes=lacks)


def _candidates(seen: Mapping[str, Mapping[str, Any]], primaries: list[str]) -> list[str]:
    """Standbys that run; in a split brain the primaries; else whoever is stopped and was primary."""
    if len(primaries) > 1:
        return primaries
    standbys = [host for host, look in seen.items() if look["role"] == "standby"]
    return standbys or [
        h for h, look in seen.items() if look["role"] == "stopped" and look["was"] == "primary"
    ]


def _harmless(look: Mapping[str, Any]) -> bool:
    """A standby takes no writes, and a host without data neither."""
    return look["role"] in ("standby", "absent") or (look["role"] == "stopped" and look["was"] == "standby")


def run_alone(looks: Mapping[str, Look], confirmed: Collection[str]) -> Change:
    """Return the primary that is to wait for no standby any more, where commits wait for one that is gone.

    ``confirmed`` names hosts that cannot be asked and of which a person says that they are off for good: one
    of them may have become primary, and then rows that this one takes would be lost.
    """
    seen = {host: look for host, look in looks.items() if look is not None}
    if refusal := _unknown(looks, confirmed):
        return Change(refusal=refusal)
    primaries = [host for host, look in seen.items() if look["role"] == "primary"]
    if len(primaries) != 1:
        names = " and ".join(primaries) or "no host"
        return Change(refusal=f"{names} {'are' if primaries else 'is'} primary: look with database_status")
    silent = sorted(looks.keys() - seen.keys())
    if refusal := _unconfirmed(silent, confirmed, "may have become primary"):
        return Change(refusal=refusal)
    look = seen[primaries[0]]
    confirming = [r["name"] for r in look["replicas"] if r["sync_state"] in ("sync", "quorum")]
    if look["synchronous_standby_names"] and confirming:
        return Change(
            refusal=f"{', '.join(confirming)} confirms every commit: none waits for a host that is gone"
        )
    return Change(primary=primaries[0], act=bool(look["synchronous_standby_names"]), trusted=silent)


def switchover(
    looks: Mapping[str, Look], addresses: Mapping[str, str], new_primary: str | None, *, limits: Limits
) -> Change:
    """Return the planned change to ``new_primary``, or to the only standby there is.

    Also where a run before was killed: the old primary is stopped cleanly and the standby has all of it, or
    the standby is promoted and the old primary does not follow yet.
    """
    missing = [host for host, look in looks.items() if look is None]
    if missing:
        return Change(refusal=f"{', '.join(missing)} cannot be asked")
    if new_primary and (refusal := _unknown(looks, [new_primary])):
        return Change(refusal=refusal)
    seen = {host: look for host, look in looks.items() if look is not None}
    return _switch(seen, judge(looks, addresses, limits=limits), new_primary)


def _switch(seen: Mapping[str, Mapping[str, Any]], view: View, new_primary: str | None) -> Change:
    stopped = [h for h, look in seen.items() if look["role"] == "stopped" and look["was"] == "primary"]
    if view.primary is None and len(stopped) == 1:
        return _resumed(seen, stopped[0], new_primary)
    blocking = [p.message for p in view.problems if p.kind not in HARMLESS]
    if view.primary and (view.primary == new_primary or (stopped and not new_primary)):
        # Promoted already: what is left is that the old primary follows.
        return Change(primary=view.primary, old=stopped[0] if len(stopped) == 1 else None, lacks_bytes=0)
    standbys = [host for host, look in seen.items() if look["role"] == "standby"]
    chosen = new_primary or (standbys[0] if len(standbys) == 1 else None)
    if chosen is None and not blocking:
        return Change(refusal=f"say new_primary: {', '.join(standbys) or 'no host'} could become it")
    if blocking or chosen not in view.standbys:
        return Change(refusal="; ".join(blocking) or f"{chosen} does not follow {view.primary}")
    old = str(view.primary)
    return Change(primary=chosen, old=old, act=True, fence=[old], lacks_bytes=0)


def _resumed(seen: Mapping[str, Mapping[str, Any]], old: str, new_primary: str | None) -> Change:
    """Go on between the stop of the old primary and the promotion."""
    standbys = [host for host, look in seen.items() if look["role"] == "standby"]
    chosen = new_primary or (standbys[0] if len(standbys) == 1 else None)
    look = seen.get(str(chosen))
    if look is None or look["role"] != "standby" or seen[old]["timeline"] != look["timeline"]:
        return Change(refusal=f"no host is primary ({old} is stopped): database_failover")
    if seen[old]["state"] != "shut down" or lsn_bytes(look["replay_lsn"]) <= lsn_bytes(
        seen[old]["checkpoint_lsn"]
    ):
        return Change(
            refusal=f"{old} is stopped and {chosen} does not have all of it: database_failover starts one"
        )
    return Change(primary=chosen, old=old, act=True, fence=[old], lacks_bytes=0)


def _unknown(looks: Mapping[str, Look], names: Collection[str]) -> str:
    unknown = [name for name in names if name not in looks]
    return f"{', '.join(unknown)} is no database host ({', '.join(looks)})" if unknown else ""


def _unconfirmed(silent: Collection[str], confirmed: Collection[str], danger: str) -> str:
    """Return the refusal for hosts that cannot be asked, unless a person says of each that it is off."""
    unconfirmed = [host for host in silent if host not in confirmed]
    if not unconfirmed:
        return ""
    return (
        f"say fencing_confirmed={','.join(unconfirmed)} when its power or network is taken: it cannot be "
        f"asked and {danger}"
    )
