"""Decide whether a run may start, and on which hosts. Pure logic; the action plugin does the I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from stationkeeper.runbooks.description import Description
from stationkeeper.runbooks.inputs import Inputs
from stationkeeper.runbooks.probe import Knock


class RefusedError(RuntimeError):
    """The run does not start; the text says why and how to go on."""


@dataclass(frozen=True)
class Partition:
    """The intended hosts, and which of them answered. `unreachable` maps a host to the reason."""

    targets: list[str]
    reachable: list[str]
    unreachable: dict[str, str]


def resolve_targets(
    description: Description,
    inputs: Inputs,
    groups: dict[str, list[str]],
    match: Callable[[str], Iterable[str]],
    pending: Iterable[str] | None = None,
) -> list[str]:
    """The intended hosts in inventory order, or RefusedError.

    `match` resolves a host pattern. Without a target a read-only runbook takes its whole target group.
    `all` means all of the target group; any other pattern must lie within it. `pending` restricts the
    result to hosts of the ledger.
    """
    group = description.target_group
    if group not in groups:
        raise RefusedError(
            f"The inventory has no group `{group}`, which this runbook acts on. "
            "Is it the right inventory (-i inventories/<system>)?"
        )
    members = list(groups[group])
    if inputs.target in {None, "all", "*"}:
        targets = members
    else:
        hosts = list(match(str(inputs.target)))
        if not hosts:
            raise RefusedError(
                f"No host matches target `{inputs.target}`. "
                f"Hosts of group {group}: {', '.join(members) or 'none'}."
            )
        outside = sorted(set(hosts) - set(members))
        if outside:
            raise RefusedError(
                f"Target `{inputs.target}` contains {', '.join(outside)}, outside of group {group}, "
                "which this runbook acts on."
            )
        targets = [host for host in members if host in set(hosts)]
    if pending is not None:
        due = set(pending)
        targets = [host for host in targets if host in due]
        if not targets:
            raise RefusedError("Nothing is pending for this runbook and target: there is nothing to do.")
    if not targets:
        raise RefusedError(f"Group {group} has no hosts: there is nothing to act on.")
    return targets


def check_limit(targets: list[str], limited: Iterable[str] | None, limit: str) -> None:
    """Refuse a `--limit` that would silently leave out targets. `limited` is what the limit matches."""
    if limited is None:
        return
    left_out = sorted(set(targets) - set(limited))
    if left_out:
        raise RefusedError(
            f"--limit {limit} would leave out {', '.join(left_out)} of the targets. "
            "A runbook is restricted with -e target=…, so that what it intends is on record."
        )


def partition(description: Description, targets: list[str], knocks: dict[str, Knock]) -> Partition:
    """Split the targets by who answered; RefusedError when fewer than the runbook's minimum did.

    A host without an entry in `knocks` was not probed and counts as reachable.
    """
    unreachable = {
        host: knocks[host].message for host in targets if host in knocks and not knocks[host].reachable
    }
    reachable = [host for host in targets if host not in unreachable]
    needed = required_count(description, len(targets))
    if len(reachable) < needed:
        detail = "; ".join(f"{host} ({why})" for host, why in unreachable.items())
        raise RefusedError(
            f"{len(reachable)} of {len(targets)} targets can be reached and this runbook needs {needed}. "
            f"Unreachable: {detail or 'none'}."
        )
    return Partition(targets, reachable, unreachable)


def required_count(description: Description, targets: int) -> int:
    """How many of `targets` hosts must take part; `minimum_reachable` never asks for more than there are."""
    minimum = description.minimum_reachable
    return targets if minimum == "all" else min(minimum, targets)
