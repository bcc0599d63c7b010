"""What a run of site.yml may make of a database host. Pure.

The order of the hosts decides only where none of them has any data. Everything else follows from what is
found. Where that does not suffice the run stops: a second database, or the wrong one started, loses rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .view import Look


@dataclass(frozen=True)
class Plan:
    """What to do with a host (``keep``, ``start``, ``create``, ``join``, ``refuse``), and who is primary."""

    action: str
    primary: str | None
    message: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the plan for Ansible."""
        return asdict(self)


class _NoPrimaryError(Exception):
    """No host is primary, and none may become it here; the text says why and which runbook helps."""


def plan(looks: Mapping[str, Look], host: str) -> Plan:
    """Return what to do with ``host``, which was looked at; ``looks`` has all database hosts, in order."""
    seen = {name: look for name, look in looks.items() if look is not None}
    own = seen[host]
    try:
        primary = _primary(looks, seen)
    except _NoPrimaryError as error:
        return Plan("refuse", None, str(error))
    if own["role"] in ("primary", "standby"):
        return Plan("keep", primary)
    if own["role"] == "absent":
        return Plan("create" if host == primary else "join", primary)
    if (
        own["role"] == "stopped"
        and own["start"] != "disabled"
        and (host == primary or own["was"] == "standby")
    ):
        return Plan("start", primary)
    if own["role"] == "silent":
        text = f"{host}: {own['message']}. Look with database_status."
    elif own["start"] == "disabled":
        text = f"{host} is fenced (start.conf says disabled): run database_rejoin on it."
    else:
        text = f"{host} has the data of a former primary, and {primary} is primary now: database_rejoin."
    return Plan("refuse", primary, text)


def _primary(looks: Mapping[str, Look], seen: Mapping[str, Mapping[str, Any]]) -> str:
    """Return who is primary, or becomes it in this run."""
    identifiers = {look["system_identifier"] for look in seen.values() if look["system_identifier"]}
    if len(identifiers) > 1:
        raise _NoPrimaryError("The database hosts hold different databases. Look with database_status.")
    primaries = [name for name, look in seen.items() if look["role"] == "primary"]
    if len(primaries) > 1:
        names = " and ".join(primaries)
        raise _NoPrimaryError(f"{names} are both primary. Look with database_status before anything else.")
    if primaries:
        return primaries[0]
    missing = [name for name in looks if name not in seen]
    if missing:
        raise _NoPrimaryError(
            f"No host that answers is primary, and {', '.join(missing)} cannot be asked, which may be it. "
            "Bring it back; or, if it is lost, make another one primary with database_failover."
        )
    if all(look["role"] == "absent" for look in seen.values()):
        return next(iter(looks))
    newest = max(look["timeline"] or 0 for look in seen.values())
    stopped = [
        name
        for name, look in seen.items()
        if look["role"] == "stopped" and look["was"] == "primary" and look["start"] != "disabled"
    ]
    if len(stopped) == 1 and seen[stopped[0]]["timeline"] == newest:
        return stopped[0]
    holders = [name for name, look in seen.items() if look["role"] != "absent"]
    raise _NoPrimaryError(
        f"No host is primary, though {', '.join(holders)} has data. Look with database_status; "
        "database_failover makes a primary."
    )
