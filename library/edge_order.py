#!/usr/bin/python
"""Ansible module: orders to a station's controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: edge_order
short_description: Give, withdraw or query an order to a station's controller
description:
  - An order is a file on the station that the controller reads four times a second, without a restart.
  - V(safe_mode) holds the batteries at 0 kW, energised and under control. V(maintenance) holds 0 kW and then
    writes no set-point any more. V(setpoint) asks for a power of the station until a moment.
  - The newest order of a kind replaces the one before. A file that cannot be understood counts as safe mode.
  - A safe mode or a maintenance that ran out leaves the station at 0 kW until a fresh set-point is given or
    the order is withdrawn. A set-point that was given before or during a hold is never applied after it.
options:
  order:
    description: Kind of order.
    type: str
    choices: [safe_mode, maintenance, setpoint]
    required: true
  state:
    description: V(present) gives the order, V(absent) withdraws it, V(query) only reports.
    type: str
    choices: [present, absent, query]
    default: present
  reason:
    description: Why. Required for a V(present) safe mode or maintenance and for V(absent).
    type: str
  run_id:
    description:
      - Identifier of the run that asks, kept in the order. Required for V(present).
      - A set-point of another run is always a fresh one, also with the same numbers.
    type: str
  owner:
    description: Who asks. The default is the user at the other end of sudo on the station.
    type: str
  until:
    description:
      - Moment at which the order ends, RFC 3339 with its offset. It must lie ahead on the station's clock.
      - Required for V(maintenance) and V(setpoint). Without it, safe mode stands until it is withdrawn.
    type: str
  power_kw:
    description: Power of the whole station for V(setpoint), in kW; + discharges into the grid, - charges.
    type: float
  directory:
    description: Directory of the orders.
    type: path
    default: /var/lib/bess_controller/orders
attributes:
  check_mode:
    support: full
    description: Reports what would change and writes nothing.
  diff_mode:
    support: full
    description: Shows the order before and after.
author: Stationkeeper maintainers
"""

EXAMPLES = r"""
- name: Hold the station in safe mode for the inspection
  edge_order:
    order: safe_mode
    reason: inspection of the container
    until: '2026-03-29T14:00:00Z'
    run_id: 01JD0000000000000000000000

- name: Withdraw the maintenance
  edge_order:
    order: maintenance
    state: absent
    reason: the technician has left

- name: Discharge with 40 kW until noon
  edge_order:
    order: setpoint
    power_kw: 40
    until: '2026-03-29T12:00:00Z'
    run_id: 01JD0000000000000000000001
"""

RETURN = r"""
present:
  description: Whether there is (in check mode, would be) an order of this kind, also one that ran out.
  returned: success
  type: bool
record:
  description: The order, none when it is absent or cannot be understood.
  returned: success
  type: dict
  contains:
    reason: {description: Why., type: str}
    owner: {description: Who., type: str}
    run_id: {description: Run that gave it., type: str}
    since: {description: 'When it was given, RFC 3339 in UTC.', type: str}
    until: {description: 'When it ends, RFC 3339 in UTC (not for a set-point).', type: str}
    valid_until: {description: 'When a set-point ends, RFC 3339 in UTC.', type: str}
    power_kw: {description: Power of a set-point in kW., type: float}
problem:
  description: Why the file cannot be understood; it counts as safe mode then.
  returned: success
  type: str
message:
  description: One sentence on the outcome.
  returned: success
  type: str
"""

import getpass
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.controller.orders import (
    SETPOINT,
    Order,
    OrderError,
    OrderState,
    format_time,
    give_order,
    merged_order,
    now_utc,
    parse_order,
    parse_time,
    read_order,
    withdraw_order,
)


def asked(parameters: dict[str, Any]) -> Order:
    """Return the order in the module's parameters. Raises OrderError."""
    kind = parameters["order"]
    until = parse_time(parameters["until"]) if parameters["until"] is not None else None
    if until is not None and until <= now_utc():
        raise OrderError(
            f"until {format_time(until)} has passed; the station's clock says {format_time(now_utc())}"
        )
    owner = parameters["owner"] or os.environ.get("SUDO_USER") or getpass.getuser()
    order = Order(
        kind,
        parameters["reason"] or "",
        owner,
        parameters["run_id"],
        now_utc(),
        until,
        parameters["power_kw"],
    )
    return parse_order(kind, order.as_dict())


def sentence(kind: str, changed: bool, after: OrderState) -> str:
    """Say in one sentence what the outcome is."""
    name = {"safe_mode": "safe mode", "maintenance": "maintenance", "setpoint": "set-point"}[kind]
    if after.problem is not None:
        return f"The order for {name} cannot be understood and counts as safe mode: {after.problem}."
    order = after.order
    if order is None:
        return f"The order for {name} was withdrawn." if changed else f"There is no order for {name}."
    end = f"until {format_time(order.until)}" if order.until else "until it is withdrawn"
    what = f"{name} of {order.power_kw:g} kW" if kind == SETPOINT else name
    over = ", which has passed" if order.until is not None and order.until <= now_utc() else ""
    return f"Order for {what} {end}{over}, by {order.owner}: {order.reason or 'no reason given'}."


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "order": {"type": "str", "choices": ["safe_mode", "maintenance", "setpoint"], "required": True},
            "state": {"type": "str", "choices": ["present", "absent", "query"], "default": "present"},
            "reason": {"type": "str"},
            "run_id": {"type": "str"},
            "owner": {"type": "str"},
            "until": {"type": "str"},
            "power_kw": {"type": "float"},
            "directory": {"type": "path", "default": "/var/lib/bess_controller/orders"},
        },
        required_if=[("state", "present", ("run_id",)), ("state", "absent", ("reason",))],
        supports_check_mode=True,
    )
    parameters = module.params
    kind, state, directory = parameters["order"], parameters["state"], Path(parameters["directory"])
    if state == "present":
        needed = {
            "setpoint": ("power_kw", "until"),
            "maintenance": ("reason", "until"),
            "safe_mode": ("reason",),
        }
        missing = [name for name in needed[kind] if parameters[name] in (None, "")]
        if missing:
            module.fail_json(msg=f"an order for {kind} needs {' and '.join(missing)}")
        if kind != SETPOINT and parameters["power_kw"] is not None:
            module.fail_json(msg=f"power_kw belongs to an order for a setpoint, not for {kind}")
    before = after = read_order(kind, directory)
    changed = False
    try:
        if state == "present":
            order = asked(parameters)
            changed, standing = merged_order(order, before)
            after = OrderState(standing)
            if changed and not module.check_mode:
                done = give_order(order, directory)
                changed, before, after = done.changed, done.before, done.after
        elif state == "absent":
            changed = before != OrderState()
            after = OrderState()
            if changed and not module.check_mode:
                done = withdraw_order(kind, directory)
                changed, before, after = done.changed, done.before, done.after
    except OrderError as error:
        module.fail_json(msg=str(error), **before.as_dict())
    if changed and not module.check_mode:
        module.log(f"order {kind} {state}: {parameters['reason'] or parameters['run_id']}")
    module.exit_json(
        changed=changed,
        message=sentence(kind, changed, after),
        diff={"before": before.as_dict(), "after": after.as_dict()},
        **after.as_dict(),
    )


if __name__ == "__main__":
    main()
