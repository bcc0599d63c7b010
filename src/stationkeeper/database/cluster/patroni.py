"""What Patroni and etcd say of a database whose primary they elect. Pure; the runbooks ask them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .node import slot_name
from .view import Problem

#: States in which Patroni shows a member that is as it should be.
GOOD = ("running", "streaming")


def judge(
    clusters: Mapping[str, Mapping[str, Any] | None],
    etcd: Mapping[str, bool],
    primary: str | None,
) -> list[Problem]:
    """Return what is wrong with the election of the primary.

    ``clusters`` has Patroni's answer to ``GET /cluster`` on each host that could be asked, None where it gave
    none. ``etcd`` says of each host with a member whether that takes part. ``primary`` is the host that was
    seen to take writes.
    """
    problems = [
        Problem("patroni_silent", host, f"Patroni of {host} does not answer: journalctl -u 'patroni@*'")
        for host, cluster in clusters.items()
        if cluster is None
    ]
    problems += [
        Problem("etcd", host, f"etcd of {host} takes no part: journalctl -u etcd")
        for host, well in etcd.items()
        if not well
    ]
    answers = [cluster for cluster in clusters.values() if cluster is not None]
    if not answers:
        return problems
    if any(cluster.get("pause") for cluster in answers):
        words = "Patroni is paused: it replaces no primary that dies (patronictl resume)"
        problems.append(Problem("patroni_paused", None, words, "warning"))
    # All hosts tell what etcd has; the one that knows most members is the newest.
    members = max((cluster.get("members", []) for cluster in answers), key=len)
    leaders = [str(member["name"]) for member in members if member.get("role") == "leader"]
    if not leaders:
        problems.append(Problem("patroni_no_leader", None, "Patroni has no leader: database_failover"))
    elif primary and slot_name(primary) not in leaders:
        words = f"{primary} takes writes, but Patroni's leader is {leaders[0]}"
        problems.append(Problem("patroni_disagrees", None, words))
    states = {str(member["name"]): str(member.get("state")) for member in members}
    for host, cluster in clusters.items():
        state = states.get(slot_name(host), "no member")
        if cluster is not None and state not in GOOD:
            words = f"for Patroni {host} is {state}: database_rejoin"
            problems.append(Problem("patroni_member", host, words))
    return problems
