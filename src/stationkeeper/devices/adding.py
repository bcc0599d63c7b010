"""What `device_add` has to do at each station, and what speaks against it, before anything is touched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stationkeeper.devices.declarations import Declared, Item, Station, address, examine
from stationkeeper.registry.rows import Row


@dataclass
class Addition:
    """One station: names by what is to be done, and its devices before and after.

    ``new`` are not registered, ``enabling`` come out of commissioning, ``serving`` are as they should be.
    ``before`` is what the station's configuration has now, ``after`` what it is to have.
    """

    problems: list[str]
    new: list[str] = field(default_factory=list)
    enabling: list[str] = field(default_factory=list)
    serving: list[str] = field(default_factory=list)
    before: list[Item] = field(default_factory=list)
    after: list[Item] = field(default_factory=list)
    rows_before: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.new or self.enabling)


def plan_addition(
    system: str,
    stations: Sequence[Station],
    registered: Sequence[Row],
    targets: Sequence[str],
    names: Sequence[str] = (),
    *,
    enable_writes: bool = False,
    commissioned: Collection[tuple[str, str]] | None = None,
) -> dict[str, Addition]:
    """Return the plan of each target station. ``names`` selects declared devices; all when it is empty.

    ``commissioned`` are name and endpoint of the batteries that passed; None when nobody is to ask for it.
    """
    usable, problems = examine(system, stations)
    known = {row.id: row for row in registered}
    plans = {}
    for target in targets:
        own = [device for device in usable if device.station == target]
        plan = Addition(list(problems[target]))
        for device in own:
            _place(plan, device, known, selected=not names or device.row.name in names, enable=enable_writes)
        if enable_writes and commissioned is not None:
            plan.problems += _uncommissioned(plan, own, commissioned)
        plan.problems += _clashes(plan, own, registered)
        if not plan.before:
            plan.problems.insert(
                0, f"no device of {target} is registered yet: converge it with site.yml, then add to it"
            )
        if enable_writes and plan.new:
            plan.problems.append(
                f"{', '.join(plan.new)}: not in commissioning yet; add devices first, and enable writes "
                "in a run of its own"
            )
        plans[target] = plan
    _missing(plans, usable, targets, names)
    return plans


def _place(
    plan: Addition, device: Declared, known: Mapping[str, Row], *, selected: bool, enable: bool
) -> None:
    name, row = device.row.name, known.get(device.row.id)
    if row is None:
        if selected:
            plan.new.append(name)
            plan.after.append(device.item)
            plan.rows.append(device.row.as_dict())
            if device.writes_enabled:
                plan.problems.append(
                    f"device {name}: a new battery is only read until it is commissioned; declare it with "
                    "`writes_enabled: false`"
                )
        return
    if row.active_to and not device.row.active_to:
        plan.problems.append(
            f"device {name}: it was retired at {row.active_to.isoformat()}, and a name and its identifier "
            "are never used again; give the new device a name of its own"
        )
        return
    commissioning = row.metadata.get("writes_enabled") is False
    if commissioning and device.writes_enabled:
        plan.before.append({**device.item, "writes_enabled": False})
        if not selected:
            plan.after.append(plan.before[-1])
            return
        if not enable:
            plan.problems.append(
                f"device {name}: it is in commissioning and declared with writes enabled; run "
                "device_commission, then this runbook with enable_writes=true"
            )
        plan.enabling.append(name)
        plan.after.append(device.item)
        plan.rows.append(device.row.as_dict())
        plan.rows_before.append(row.as_dict())
        return
    plan.before.append(device.item)
    plan.after.append(device.item)
    if selected:
        plan.serving.append(name)


def _uncommissioned(
    plan: Addition, own: Sequence[Declared], commissioned: Collection[tuple[str, str]]
) -> list[str]:
    found = []
    for device in own:
        _, host, port, unit = address(device.station, device.item["modbus"])
        endpoint = f"{host}:{port} unit {unit}"
        if device.row.name in plan.enabling and (device.row.name, endpoint) not in commissioned:
            found.append(
                f"device {device.row.name}: this control node has no report of a device_commission that "
                f"passed at {endpoint}; run it, or say with commissioned_elsewhere=true that another one has "
                "the report"
            )
    return found


def _clashes(plan: Addition, own: Sequence[Declared], registered: Sequence[Row]) -> list[str]:
    """Return where a new device would take the name or the address of one that is registered."""
    declared = {device.row.id for device in own}
    others = [row for row in registered if row.id not in declared]
    names = {row.name: row for row in others}
    addresses = {
        address(str(row.metadata.get("station")), row.metadata["modbus"]): row
        for row in others
        if row.active_to is None and "modbus" in row.metadata
    }
    found = []
    for device in own:
        if device.row.name not in plan.new:
            continue
        taken = names.get(device.row.name)
        if taken:
            found.append(
                f"device {device.row.name}: the registry has this name with identifier {taken.id} at site "
                f"{taken.site}, and a name is never used twice"
            )
        at = address(device.station, device.item["modbus"])
        if at in addresses:
            found.append(
                f"device {device.row.name}: {addresses[at].name} is in service at unit {at[3]} of "
                f"{at[1]}:{at[2]}; retire it with device_remove, or correct the address"
            )
    return found


def _missing(
    plans: Mapping[str, Addition], usable: Sequence[Declared], targets: Sequence[str], names: Sequence[str]
) -> None:
    declared = {device.row.name for device in usable if device.station in targets}
    for name in names:
        if name in declared or any(name in problem for plan in plans.values() for problem in plan.problems):
            continue
        for target, plan in plans.items():
            plan.problems.append(
                f"device {name}: the inventory declares none of this name at {target}; declare it in "
                f"station_devices of host_vars/{target}.yml first"
            )
