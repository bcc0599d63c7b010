"""What `device_remove` has to do at each station, and what speaks against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stationkeeper.devices.declarations import Item, Station, examine
from stationkeeper.registry.rows import Row

# What the registry keeps of a device's declaration, besides its own columns.
_KEPT = ("modbus", "rating_kw", "capacity_kwh", "measures", "writes_enabled")


@dataclass
class Removal:
    """One station: the devices that leave, and the station's devices at each step.

    ``leaving`` is rebuilt from the registry, since the inventory does not declare them any more. ``before``
    is what the station's configuration has now, ``held`` the same with the leaving ones only read, ``after``
    what remains.
    """

    problems: list[str]
    leaving: list[Item] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    before: list[Item] = field(default_factory=list)
    held: list[Item] = field(default_factory=list)
    after: list[Item] = field(default_factory=list)


def plan_removal(
    system: str, stations: Sequence[Station], registered: Sequence[Row], targets: Sequence[str],
    names: Sequence[str],
) -> dict[str, Removal]:  # fmt: skip
    """Return the plan of each target station for the devices ``names``."""
    usable, problems = examine(system, stations)
    by_name = {row.name: row for row in registered}
    declared = {device.row.name: device for device in usable}
    sites = {station.name: station.site for station in stations}
    plans = {target: Removal(list(problems[target])) for target in targets}
    for target, plan in plans.items():
        serving = {row.id for row in registered if row.active_to is None}
        plan.after = [d.item for d in usable if d.station == target and d.row.id in serving]
    for name in names:
        row = by_name.get(name)
        owner = next((t for t in targets if row and row.site == sites[t] and _station(row) in ("", t)), None)
        if row is None or owner is None:
            for plan in plans.values():
                plan.problems.append(f"device {name}: the registry has none of this name at the target")
            continue
        plan = plans[owner]
        if name in declared:
            plan.problems.append(
                f"device {name}: the inventory still declares it, so the next site.yml would bring it back; "
                f"take it out of host_vars/{declared[name].station}.yml first, then run this"
            )
        elif row.active_to:
            plan.retired.append(name)
        elif row.type == "bess" and not {"modbus", "rating_kw", "capacity_kwh"} <= row.metadata.keys():
            plan.problems.append(
                f"device {name}: the registry does not say where it is (metadata), so it cannot be stopped; "
                "register it with site.yml while the inventory still declares it"
            )
        else:
            plan.leaving.append(_item(row))
            plan.rows.append(row.as_dict())
    for target, plan in plans.items():
        _complete(target, plan)
    return plans


def _complete(target: str, plan: Removal) -> None:
    plan.before = [*plan.after, *plan.leaving]
    plan.held = [
        *plan.after,
        *({**item, "writes_enabled": False} if item["type"] == "bess" else item for item in plan.leaving),
    ]
    names = {item["name"] for item in plan.leaving}
    orphans = [item["name"] for item in plan.after if item.get("measures") in names]
    if orphans:
        plan.problems.append(
            f"{', '.join(orphans)} measures a battery that leaves: retire it together with the battery"
        )
    if plan.leaving and not plan.after:
        plan.problems.append(f"{target} would be left without a device; decommission the station instead")


def _item(row: Row) -> dict[str, Any]:
    item: dict[str, Any] = {
        "id": row.id,
        "name": row.name,
        "type": row.type,
        "profile": row.profile,
        "cadence_s": row.cadence_s,
    }
    return item | {key: row.metadata[key] for key in _KEPT if key in row.metadata}


def _station(row: Row) -> str:
    return str(row.metadata.get("station") or "")
