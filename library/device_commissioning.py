#!/usr/bin/python
"""Ansible module: commission a battery over Modbus."""

from __future__ import annotations

DOCUMENTATION = r"""
module: device_commissioning
short_description: Prove what a battery is and does before anybody relies on it
description:
  - Runs on the control node and speaks Modbus to the battery and its meter itself. The station's controller
    must not command the battery meanwhile; a battery that somebody else commands is refused.
  - Reads first - identity, mode, state of energy, a heartbeat that moves. Then writes, at low power - zero
    and its noise, and a discharge that device and meter must measure as one and that must be read back. Then
    it feeds the battery's watchdog, falls silent, and measures when the power leaves the set-point, and to
    where.
  - Ends at zero power, measured and read back, whatever happened before, an interruption too. A battery
    whose fall-back is not zero is stopped at the end.
  - Proposes C(measured_fallback_s) for the profile. Never changes a profile.
version_added: "0.1.0"
author: Stationkeeper
options:
  device:
    description: The battery as the inventory has it (name, profile, modbus, rating_kw).
    type: dict
    required: true
  meter:
    description: The meter of the battery, as the inventory has it. Without one, the battery's word counts.
    type: dict
  power_kw:
    description:
      - Power to discharge with, in kW. At least three times what counts as zero, and at most a tenth of the
        rating. Five percent of the rating, when left out.
    type: float
  measure_watchdog:
    description: Whether to pull the plug and measure the fall-back.
    type: bool
    default: true
  silence_limit_s:
    description: Longest silence in seconds. Twice the profile's time-out and ten seconds, when left out.
    type: float
  samples:
    description: Fresh looks in a row that prove a state.
    type: int
    default: 5
  interval_s:
    description: Seconds between looks.
    type: float
    default: 1
  window_s:
    description: Seconds in which the battery must follow a set-point, on top of its profile's latency.
    type: float
    default: 30
  timeout_s:
    description: Time for one answer in seconds.
    type: float
    default: 3
  profile_path:
    description: Directories with profiles that are searched before the built-in ones.
    type: list
    elements: path
    default: []
  reason:
    description: Why, and in which run; goes into the gateway's lock and the report.
    type: str
    default: ""
attributes:
  check_mode:
    description: Only reads, and returns what would be written.
    support: full
  diff_mode:
    description: Shows set-point and power before and after.
    support: full
"""

EXAMPLES = r"""
- name: Commission the new battery
  device_commissioning:
    device: "{{ station_devices | selectattr('name', 'equalto', 'WLCE-BESS-02') | first }}"
    meter: "{{ station_devices | selectattr('measures', 'defined') | first }}"
    reason: New battery
  delegate_to: localhost
  become: false
"""

RETURN = r"""
passed:
  description: Whether every check passed and the battery was left at zero. The module fails when not.
  returned: always
  type: bool
checks:
  description: Each check in its order, with C(name), C(passed), C(message) and C(evidence).
  returned: always
  type: list
  elements: dict
planned:
  description: What would be written.
  returned: in check mode
  type: list
  elements: str
proposal:
  description: C(measured_fallback_s) and C(measured_on) for the C(watchdog) of the profile, once measured.
  returned: success
  type: dict
left_at_zero:
  description: Whether the battery was left at zero, measured and read back. None when nothing was written.
  returned: always
  type: bool
report:
  description: File of the report on the control node.
  returned: when anything was written
  type: str
"""

import asyncio
import getpass
from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:
    from stationkeeper.commissioning import Options, OptionsError
    from stationkeeper.commissioning.session import commission_target, write_report
    from stationkeeper.modbus.errors import ModbusError
    from stationkeeper.profiles import ProfileError
    from stationkeeper.station.devices import Target
except ImportError:
    Target = None  # type: ignore[assignment,misc]  # reported below, with how to install it


_OPTIONS = (
    "power_kw",
    "measure_watchdog",
    "silence_limit_s",
    "samples",
    "interval_s",
    "window_s",
    "timeout_s",
)


def _targets(module: AnsibleModule) -> tuple[Any, Any]:
    found = []
    for key in ("device", "meter"):
        given = module.params[key]
        try:
            found.append(Target.of(given, module.params["profile_path"]) if given else None)
        except (ProfileError, KeyError, ValueError, TypeError) as error:
            module.fail_json(msg=f"{key} cannot be used: {type(error).__name__}: {error}")
    return found[0], found[1]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "device": {"type": "dict", "required": True},
            "meter": {"type": "dict"},
            "power_kw": {"type": "float"},
            "measure_watchdog": {"type": "bool", "default": True},
            "silence_limit_s": {"type": "float"},
            "samples": {"type": "int", "default": 5},
            "interval_s": {"type": "float", "default": 1},
            "window_s": {"type": "float", "default": 30},
            "timeout_s": {"type": "float", "default": 3},
            "profile_path": {"type": "list", "elements": "path", "default": []},
            "reason": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    if Target is None:
        module.fail_json(msg="the stationkeeper package is missing on the control node: run `make setup`")
    params = module.params
    target, meter = _targets(module)
    options = Options(**{key: params[key] for key in _OPTIONS})
    owner = f"device_commissioning of {getpass.getuser()}: {params['reason']}"
    work = commission_target(target, meter, options, owner=owner, dry_run=module.check_mode)
    try:
        report = asyncio.run(work)
    except OptionsError as error:
        module.fail_json(msg=f"Refused, nothing was sent: {error}")
    except ModbusError as error:
        module.fail_json(msg=f"Nothing was written: {error.message}")
    after = report.after if report.written else dict.fromkeys(report.before, 0.0)
    result = {
        **report.as_dict(),
        "changed": report.written or bool(report.planned),
        "diff": {"before": report.before, "after": after},
    }
    if report.written:
        result["report"] = str(write_report(report, {"by": getpass.getuser(), "reason": params["reason"]}))
    if not report.passed:
        wrong = [f"{check.name}: {check.message}" for check in report.checks if not check.passed]
        module.fail_json(msg=f"{target.name}: {'; '.join(wrong)}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
