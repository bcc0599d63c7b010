"""What an inventory declares as credentials, and what a rotation has to do for each. Pure logic.

A declaration names the secret's variable, who accepts it (``servers``, groups) and who uses it
(``clients``, roles for each group):

    redis_flux: {kind: redis, variable: secret_redis_flux_password, user: flux, servers: [hubs],
                 clients: {hubs: [telemetry_jobs]}}

One without servers is not used in the inventory and left out. ``database`` says where a login of PostgreSQL
is tried, when that is not the system's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stationkeeper.database.logins import TWIN
from stationkeeper.secrets.rotation import SUFFIX, Phase, phase, since

#: Each has playbooks/tasks/rotation_<kind>_accept.yml and _refuse.yml.
KINDS = ("postgresql", "redis")
#: Those where two logins take turns.
_WITH_TWINS = ("postgresql",)
_FIELDS = {"kind": str, "variable": str, "user": str, "servers": list, "clients": dict}


class CredentialError(ValueError):
    """A declaration or a wish that makes no sense; the message names it and the fix."""


@dataclass(frozen=True)
class Rotation:
    """One credential with its hosts.

    ``login`` is the name that is in use, ``other`` that of the next value or of the value before; often the
    same. ``clients`` has the roles that use it, for each host.
    """

    name: str
    kind: str
    variable: str
    user: str
    login: str
    other: str
    servers: tuple[str, ...]
    clients: Mapping[str, tuple[str, ...]]
    phase: Phase
    since: str
    database: str = ""

    @property
    def next_suffix(self) -> str:
        """What the login of the next value has behind the user's name."""
        return self.other.removeprefix(self.user)


def rotations(
    declared: Mapping[str, Any], groups: Mapping[str, Sequence[str]], values: Mapping[str, str]
) -> dict[str, Rotation]:
    """Return every declared credential, as the vault has it. Raises RotationError, CredentialError."""
    return {
        name: _rotation(name, one, groups, values)
        for name, one in declared.items()
        if not (isinstance(one, Mapping) and one.get("servers") == [])
    }


def wanted(found: Mapping[str, Rotation], names: Sequence[str]) -> dict[str, Rotation]:
    """Return the credentials that were asked for, or those in mid-rotation. Raises CredentialError."""
    unknown = [name for name in names if name not in found]
    if unknown:
        raise CredentialError(
            f"no credential {', '.join(unknown)}: stationkeeper_rotations of the inventory declares "
            f"{', '.join(sorted(found))}"
        )
    return {
        name: one for name, one in found.items() if name in names or (not names and one.phase != "settled")
    }


def accepted(found: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the created credentials whose every server has said that it accepts both values."""
    return _by_all(found, facts, "created", "servers", "rotation_accepted")


def proven(found: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the switched credentials whose every client has proven that it uses the new value."""
    return _by_all(found, facts, "switched", "clients", "rotation_proven")


def retired(found: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the switched credentials whose every server refuses the value before."""
    return _by_all(found, facts, "switched", "servers", "rotation_retired")


def _by_all(
    found: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Mapping[str, Any]],
    state: Phase,
    who: str,
    fact: str,
) -> list[str]:
    return [
        name
        for name, one in found.items()
        if one["phase"] == state and all(name in facts[host].get(fact, ()) for host in one[who])
    ]


def outcome(
    found: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Mapping[str, Any]], host: str
) -> dict[str, str]:
    """Return status and message of a host after a run: what it accepts, uses, and what it waits for."""
    own = facts[host]
    failures = dict(own.get("rotation_failed", {}))
    error = facts.get("localhost", {}).get("rotation_error")
    if error:
        return {"status": "failed", "message": f"the vault: {error}"}
    told = [f"{name}: {reason}" for name, reason in failures.items()]
    changed = False
    for name, one in found.items():
        if host in one["servers"] and name not in failures:
            retired = name in own.get("rotation_retired", ())
            changed = changed or retired
            told.append(f"{name}: rotated" if retired else f"{name}: {_waiting(name, one, facts)}")
        elif host in one["clients"] and name in own.get("rotation_proven", ()):
            changed = True
            told.append(f"{name}: uses the new value")
    status = "failed" if failures else "changed" if changed else "ok"
    return {
        "status": status,
        "message": "; ".join(told) or ("has none of these" if found else "no rotation is unfinished"),
    }


def _waiting(name: str, one: Mapping[str, Any], facts: Mapping[str, Mapping[str, Any]]) -> str:
    if one["phase"] == "settled":
        return f"would get another value; this one is used since {one['since'] or 'nobody knows when'}"
    switched = one["phase"] == "switched"
    who, fact = ("clients", "rotation_proven") if switched else ("servers", "rotation_accepted")
    missing = ", ".join(host for host in one[who] if name not in facts[host].get(fact, ()))
    said = "is proven by" if switched else "is accepted by"
    return f"both values are valid until the new one {said} {missing}" if missing else "both values are valid"


def _rotation(
    name: str, one: Any, groups: Mapping[str, Sequence[str]], values: Mapping[str, str]
) -> Rotation:
    if not isinstance(one, Mapping) or any(
        not isinstance(one.get(key), kind) for key, kind in _FIELDS.items()
    ):
        raise CredentialError(f"stationkeeper_rotations.{name} needs {', '.join(_FIELDS)}")
    if one["kind"] not in KINDS:
        raise CredentialError(
            f"stationkeeper_rotations.{name}: no kind {one['kind']}, there is {', '.join(KINDS)}"
        )
    servers = tuple(dict.fromkeys(host for group in one["servers"] for host in groups.get(group, ())))
    if not servers:
        raise CredentialError(f"stationkeeper_rotations.{name}: no hosts in {', '.join(one['servers'])}")
    clients: dict[str, tuple[str, ...]] = {}
    for group, roles in one["clients"].items():
        for host in groups.get(group, ()):
            clients[host] = (*clients.get(host, ()), *roles)
    variable = one["variable"]
    suffix = values.get(variable + SUFFIX, "")
    return Rotation(
        name,
        one["kind"],
        variable,
        one["user"],
        one["user"] + suffix,
        one["user"] + ("" if suffix or one["kind"] not in _WITH_TWINS else TWIN),
        servers,
        clients,
        phase(values, variable),
        since(values, variable),
        one.get("database", ""),
    )
