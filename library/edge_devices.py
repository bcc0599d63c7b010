#!/usr/bin/python
"""Ansible module: look at a station's devices over Modbus, or bring them to standby."""

from __future__ import annotations

DOCUMENTATION = r"""
module: edge_devices
short_description: Look at a station's devices over Modbus, or bring them to standby
description:
  - Runs on the control node and speaks Modbus to the devices itself, apart from the station's controller.
  - Missing answers count against the device.
version_added: "0.1.0"
author: Stationkeeper
options:
  devices:
    description: The station's devices as the inventory has them (name, profile, modbus, rating_kw).
    type: list
    elements: dict
    required: true
  state:
    description:
      - V(releasable) reads only and returns why the emergency stop must stay - silence, repeated values, a
        wrong device, alarms, state of energy out of its window, local mode, or power that is not zero.
      - V(zero) reads only and returns what does not stand at zero in all samples, silence included.
      - V(standby) runs the release recipe of each battery's profile and proves standby at 0 kW.
      - V(controlled) reads only and returns what is wrong under control - silence, or power beyond the
        rating.
      - V(identified) is V(controlled) for devices that are new on their bus, one request at a time on each
        gateway.
    type: str
    choices: [releasable, zero, standby, controlled, identified]
    required: true
  samples:
    description: Number of samples of each device.
    type: int
    default: 3
  interval_s:
    description: Time between samples in seconds.
    type: float
    default: 1
  timeout_s:
    description: Time for one answer in seconds.
    type: float
    default: 3
  wait_s:
    description: Look again until nothing is wrong, for at most so many seconds. Not for V(standby).
    type: float
    default: 0
attributes:
  check_mode:
    description: Writes nothing and says which registers the recipe would change.
    support: full
  diff_mode:
    description: The message of each device names its registers before and after.
    support: none
"""

EXAMPLES = r"""
- name: Ask whether the emergency stop may be released
  edge_devices:
    devices: "{{ station_devices }}"
    state: releasable
  delegate_to: localhost
  become: false
  check_mode: false
"""

RETURN = r"""
problems:
  description: Sentences that say what is wrong. Empty when nothing is.
  returned: success
  type: list
  elements: str
evidence:
  description: For each device the samples that were read, or what was done to it.
  returned: success
  type: dict
"""

import asyncio
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:
    from stationkeeper.devices.preflight import look_at_new
    from stationkeeper.profiles import ProfileError
    from stationkeeper.station import devices as station_devices
except ImportError:
    station_devices = None  # type: ignore[assignment]  # reported below, with how to install it


def _observe(targets: list[Any], pace: Any, state: str, wait_s: float) -> dict[str, Any]:
    look = look_at_new if state == "identified" else station_devices.look_at_all
    judge = {"releasable": station_devices.refusals, "zero": station_devices.movements}.get(
        state, station_devices.excesses
    )
    deadline = time.monotonic() + wait_s
    while True:
        seen = asyncio.run(look(targets, pace))
        problems = [problem for target in targets for problem in judge(target, seen[target.name])]
        if not problems or time.monotonic() >= deadline:
            break
        time.sleep(pace.interval_s)
    return {
        "changed": False,
        "problems": problems,
        "evidence": {
            name: {"samples": list(answer.samples), "error": answer.error} for name, answer in seen.items()
        },
    }


def _bring_to_standby(targets: list[Any], pace: Any, *, dry_run: bool) -> dict[str, Any]:
    async def run_all() -> list[Any]:
        batteries = [target for target in targets if target.profile.device_type == "bess"]
        runs = (station_devices.run_release(target, pace, dry_run=dry_run) for target in batteries)
        return list(await asyncio.gather(*runs))

    done = asyncio.run(run_all())
    return {
        "changed": any(result.changed for result in done),
        "problems": [f"{result.name}: {result.message}" for result in done if not result.ok],
        "evidence": {result.name: result.message for result in done},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "devices": {"type": "list", "elements": "dict", "required": True},
            "state": {
                "type": "str",
                "choices": ["releasable", "zero", "standby", "controlled", "identified"],
                "required": True,
            },
            "samples": {"type": "int", "default": 3},
            "interval_s": {"type": "float", "default": 1},
            "timeout_s": {"type": "float", "default": 3},
            "wait_s": {"type": "float", "default": 0},
        },
        supports_check_mode=True,
    )
    if station_devices is None:
        module.fail_json(msg="the stationkeeper package is missing on the control node: run `make setup`")
    params = module.params
    pace = station_devices.Pace(params["samples"], params["interval_s"], params["timeout_s"])
    try:
        targets = [station_devices.Target.of(device) for device in params["devices"]]
    except (ProfileError, KeyError, ValueError, TypeError) as error:
        module.fail_json(msg=f"A device of the inventory cannot be used: {error}")
    if params["state"] == "standby":
        module.exit_json(**_bring_to_standby(targets, pace, dry_run=module.check_mode))
    module.exit_json(**_observe(targets, pace, params["state"], params["wait_s"]))


if __name__ == "__main__":
    main()
