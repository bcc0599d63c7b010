#!/usr/bin/python
"""Ansible module: a fault that heals itself."""

from __future__ import annotations

DOCUMENTATION = r"""
module: drill_fault
short_description: Break something on a host for a while
description:
  - Arms a systemd timer that heals the fault, then injects it. The timer fires when its time has come, and
    the fault is healed at a boot, so it ends also when the drill or the host dies.
  - Healing brings back what was there before. A healed fault that is healed again is unchanged.
version_added: "0.4.0"
author: Stationkeeper
options:
  name:
    description: Name of the drill; it names the record and the units on the host.
    type: str
    required: true
  state:
    description: >-
      Whether the fault is there, healed, or healed with what was restored in place - only for
      O(kind=files_away), the copy that was moved away is removed.
    type: str
    choices: [injected, healed, restored]
    default: injected
  kind:
    description: What breaks.
    type: str
    choices: [service_crash, database_crash, files_away, disk_full, network_split]
  heal_after_s:
    description: Seconds after which the host heals itself.
    type: int
    default: 600
  unit:
    description: Service whose main process is killed, for O(kind=service_crash).
    type: str
  cluster:
    description: Version and name of the PostgreSQL cluster that is stopped, for O(kind=database_crash).
    type: str
  path:
    description: >-
      What is moved away, for O(kind=files_away); the directory whose disk is filled, for O(kind=disk_full).
    type: path
  leave_mb:
    description: Megabytes that are left free, for O(kind=disk_full).
    type: int
    default: 0
  largest_gb:
    description: Gigabytes that a drill may take at most, for O(kind=disk_full).
    type: int
    default: 20
  addresses:
    description: Hosts that this one is cut off from, for O(kind=network_split).
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Says what would break, and refuses what could not.
    support: full
  diff_mode:
    description: Shows the state of the fault.
    support: full
"""

EXAMPLES = r"""
- name: Kill the cache
  drill_fault:
    name: drill_service_crash
    kind: service_crash
    unit: redis-server.service
    heal_after_s: 300

- name: End the drill
  drill_fault:
    name: drill_service_crash
    state: healed
"""

RETURN = r"""
told:
  description: What is broken, in words. Empty when healed.
  returned: success
  type: str
injected_monotonic_s:
  description: >-
    When the fault was there, in seconds of the host's monotonic clock, as systemd's own figures are. 0 when
    healed, or in check mode.
  returned: success
  type: float
"""

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.drills import fault


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "default": "injected", "choices": ["injected", "healed", "restored"]},
            "kind": {"type": "str", "choices": list(fault.KINDS)},
            "heal_after_s": {"type": "int", "default": 600},
            "unit": {"type": "str"},
            "cluster": {"type": "str"},
            "path": {"type": "path"},
            "leave_mb": {"type": "int", "default": 0},
            "largest_gb": {"type": "int", "default": 20},
            "addresses": {"type": "list", "elements": "str", "default": []},
        },
        required_if=[
            ("state", "injected", ("kind",)),
            ("state", "restored", ("path",)),
            ("kind", "service_crash", ("unit",)),
            ("kind", "database_crash", ("cluster",)),
            ("kind", "files_away", ("path",)),
            ("kind", "disk_full", ("path",)),
        ],
        supports_check_mode=True,
    )
    params = module.params
    name = params["name"]
    there = (fault.RECORDS / f"{name}.json").exists()
    told, injected = "", 0.0
    try:
        if params["state"] == "injected":
            planned = fault.plan(name, params["kind"], params)
            told = planned.told
            if not module.check_mode:
                fault.inject(planned, params["heal_after_s"])
                injected = time.monotonic()
            changed = True
        elif params["state"] == "restored":
            changed = there
            if not module.check_mode and there:
                fault.keep_restored(name, Path(params["path"]))
        else:
            changed = there
            if not module.check_mode:
                changed = fault.heal(name)
    except (fault.FaultError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=changed,
        told=told,
        injected_monotonic_s=injected,
        diff={
            "before": f"{name}: {'broken' if there else 'whole'}\n",
            "after": f"{name}: {told or 'whole'}\n",
        },
    )


if __name__ == "__main__":
    main()
