"""Jinja filters over the looks at the database hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleFilterError

try:
    from stationkeeper.database import logins
    from stationkeeper.database.cluster import change, node, patroni, plan, view
except ImportError as error:
    raise ImportError(
        f"{error}: install the package on the control node with `make setup` (pip install -e .)"
    ) from error


def database_slot(host: str) -> str:
    """Return the name of a host's replication slot and application_name."""
    return node.slot_name(str(host))


def database_looks(
    hostvars: Mapping[str, Any], hosts: Iterable[str], variable: str = "database_look"
) -> dict[str, dict[str, Any] | None]:
    """Return what module database_node has registered as a variable of each host, None without an answer."""
    looks: dict[str, dict[str, Any] | None] = {}
    for host in hosts:
        found = hostvars[host].get(variable) or {}
        looks[str(host)] = None if found.get("unreachable") else found.get("node")
    return looks


def database_view(
    looks: Mapping[str, Any],
    hostvars: Mapping[str, Any],
    *,
    synchronous: bool = False,
    **limits: float,
) -> dict[str, Any]:
    """Return the judgement of all looks together: primary, standbys, problems."""
    addresses = {host: str(hostvars[host]["ansible_host"]) for host in looks}
    try:
        chosen = view.Limits(**{name: float(value) for name, value in limits.items()})  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise AnsibleFilterError(f"database_view: {error}") from error
    return view.judge(looks, addresses, limits=chosen, synchronous=bool(synchronous)).as_dict()


def database_patroni(
    hostvars: Mapping[str, Any], hosts: Iterable[str], primary: str | None
) -> list[dict[str, Any]]:
    """Return what is wrong with the election of the primary.

    Reads what the hosts registered: database_patroni (GET /cluster), and database_etcd (the health of the own
    member). A host without either could not be asked, and is not judged; the view has it as unreachable.
    """
    clusters: dict[str, Any] = {}
    members: dict[str, bool] = {}
    for host in hosts:
        answer = hostvars[host].get("database_patroni") or {}
        if answer and not answer.get("unreachable") and not answer.get("skipped"):
            clusters[str(host)] = answer.get("json") if answer.get("status") == 200 else None
        health = hostvars[host].get("database_etcd") or {}
        if "rc" in health:
            members[str(host)] = health["rc"] == 0
    return [asdict(problem) for problem in patroni.judge(clusters, members, primary)]


def database_plan(looks: Mapping[str, Any], host: str) -> dict[str, Any]:
    """Return what site.yml may make of a host."""
    return plan.plan(looks, str(host)).as_dict()


def database_failover(
    looks: Mapping[str, Any], confirmed: str, new_primary: str | None, insist: bool
) -> dict[str, Any]:
    """Return whom a failover makes primary; ``confirmed`` are host names with commas."""
    return change.failover(
        looks, confirmed=_names(confirmed), new_primary=new_primary or None, insist=bool(insist)
    ).as_dict()


def database_run_alone(looks: Mapping[str, Any], confirmed: str) -> dict[str, Any]:
    """Return the primary that is to wait for no standby; ``confirmed`` are host names with commas."""
    return change.run_alone(looks, _names(confirmed)).as_dict()


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in str(text or "").split(",") if name.strip()]


def database_switchover(
    looks: Mapping[str, Any],
    hostvars: Mapping[str, Any],
    new_primary: str | None,
    max_lag_mb: float,
    max_transaction_s: float,
) -> dict[str, Any]:
    """Return the planned change of the primary; without a name to the only standby there is."""
    limits = view.Limits(lag_bytes=int(max_lag_mb * view.MEGABYTE), transaction_s=max_transaction_s)
    addresses = {host: str(hostvars[host]["ansible_host"]) for host in looks}
    return change.switchover(looks, addresses, new_primary or None, limits=limits).as_dict()


def database_not_fenced(hostvars: Mapping[str, Any], hosts: Iterable[str]) -> list[str]:
    """Return those of the hosts that no task has stopped (registered as database_fenced)."""
    stopped = []
    for host in hosts:
        found = (hostvars[host].get("database_fenced") or {}).get("node") or {"running": True}
        if not found["running"]:
            stopped.append(host)
    return [str(host) for host in hosts if host not in stopped]


def database_lsn(position: str | None) -> int:
    """Return a position in the write-ahead log as a number; nothing is 0."""
    return node.lsn_bytes(str(position)) if position else 0


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "database_failover": database_failover,
            "database_looks": database_looks,
            "database_lsn": database_lsn,
            "database_not_fenced": database_not_fenced,
            "database_patroni": database_patroni,
            "database_plan": database_plan,
            "database_run_alone": database_run_alone,
            "database_slot": database_slot,
            "database_switchover": database_switchover,
            "database_view": database_view,
            "postgresql_login_names": logins.names,
        }
