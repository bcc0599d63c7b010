#!/usr/bin/python
"""Ansible module: stop a fleet of batteries over Modbus and prove it by measured power."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: modbus_stop
short_description: Write zero power to batteries over Modbus and prove it by measured power
description:
  - Runs on the control node and talks Modbus TCP to all devices at the same time. Each device first gets
    its profile's C(zero_power) recipe, with no read before it; a dead device costs the others no time.
  - Then the set-point in force is read back, and the measured power of the device and of its meter must be
    within the larger of noise floor and 1 % of the rating, in O(samples) fresh samples in a row (the
    heartbeat moves), and stay there for O(hold_s).
  - A device that another master keeps driving, whose zero has no effect in half of O(window_s), or whose
    dead-man does not fall back to zero also gets its profile's C(stop) recipe.
  - Succeeds whatever the devices do; the caller decides on RV(results) and RV(all_verified). A device whose
    profile cannot be loaded is C(FAILED) and costs the others nothing.
  - This is not a certified safety function. It complements the hardware stop and the battery's own
    protection and never replaces them.
options:
  devices:
    description: The devices to stop.
    type: list
    elements: dict
    required: true
    suboptions:
      station:
        description: Station (site) that the device belongs to.
        type: str
        required: true
      name:
        description: Name of the device.
        type: str
        required: true
      host:
        description: Address of its Modbus TCP server or gateway.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        default: 502
      unit:
        description: Modbus unit, 1 to 247, or 255 for a direct TCP device.
        type: int
        default: 1
      profile:
        description: Name of its profile.
        type: str
        required: true
      profile_content:
        description: The profile itself, instead of the file of that name.
        type: dict
      rating_kw:
        description: Rating, where it is not the profile's.
        type: float
      meter:
        description: The meter at its AC terminals, whose measurement is then required.
        type: dict
        suboptions:
          host:
            description: Address of the meter.
            type: str
            required: true
          port:
            description: TCP port.
            type: int
            default: 502
          unit:
            description: Modbus unit.
            type: int
            default: 1
          profile:
            description: Name of its profile.
            type: str
            required: true
          profile_content:
            description: The profile itself, instead of the file of that name.
            type: dict
  profile_path:
    description: Directories searched for profiles before the built-in ones.
    type: list
    elements: path
    default: []
  window_s:
    description: Seconds in which a device must reach zero.
    type: float
    default: 15
  hold_s:
    description: Seconds for which it must stay there; at least two cycles of any other master.
    type: float
    default: 5
  samples:
    description: Fresh samples in a row that make a zero.
    type: int
    default: 3
  interval_s:
    description: Seconds between samples.
    type: float
    default: 0.5
  connect_timeout_s:
    description: Seconds to wait for a connection.
    type: float
    default: 2
  response_timeout_s:
    description: Seconds to wait for an answer; longer than a gateway waits for its device.
    type: float
    default: 2
requirements: [stationkeeper]
attributes:
  check_mode:
    support: full
    description: Reads each device once and lists the writes with their words; sends no write.
  diff_mode:
    support: full
    description: Shows power and set-point before and after for the devices that change.
author: Stationkeeper maintainers
"""

EXAMPLES = r"""
- name: Stop the batteries of a station
  modbus_stop:
    devices:
      - station: wlce
        name: wlce-bess-01
        host: 192.0.2.21
        unit: 1
        profile: generic_battery
        rating_kw: 100
        meter: {host: 192.0.2.21, unit: 2, profile: generic_meter}
    window_s: 15
  delegate_to: localhost
  register: stopped

- name: Insist on a proof for every device
  ansible.builtin.assert:
    that: stopped.all_verified
    fail_msg: "{{ stopped.summary | join('; ') }}"
"""

RETURN = r"""
results:
  description: One entry per device, in the order of O(devices).
  returned: always
  type: list
  elements: dict
  contains:
    station:
      description: Station of the device.
      type: str
    name:
      description: Name of the device.
      type: str
    endpoint:
      description: Unit and address.
      type: str
    state:
      description: >-
        C(VERIFIED_ZERO) (the only one that means stopped), C(READBACK_ONLY), C(CONTENDED), C(FAILED),
        C(UNREACHABLE_DEADMAN_PENDING), C(UNKNOWN); in check mode C(PLANNED) for a device that answers.
      type: str
    message:
      description: A sentence for the operator.
      type: str
    changed:
      description: It did not stand at zero before, as far as can be told, or is not proven to now.
      type: bool
    contended:
      description: Another master wrote during the stop, also when that fight was won.
      type: bool
    first_write_s:
      description: Seconds from the start to the first zero write; null when none left.
      type: float
    first_write_at:
      description: Time of it, UTC.
      type: str
    verified_s:
      description: Seconds from the start until zero was proven and held; null when it was not.
      type: float
    verified_at:
      description: Time of it, UTC.
      type: str
    expected_zero_by:
      description: >-
        When a device that nobody reaches stands at zero by its own dead-man, if its controller is silent or
        latched; null for all others.
      type: str
    threshold_kw:
      description: Measured power up to which it counts as zero.
      type: float
    setpoint_kw:
      description: Last set-point in force that was read back.
      type: float
    power_kw:
      description: Last measured power.
      type: float
    meter_power_kw:
      description: Last power that the meter measured.
      type: float
    before:
      description: First look at the device, right after the first write.
      type: dict
    writes:
      description: Writes that left (in check mode those that would), with address, words, time and outcome.
      type: list
      elements: dict
    samples:
      description: The last samples.
      type: list
      elements: dict
    history:
      description: States in their order, with seconds from the start.
      type: list
      elements: dict
    errors:
      description: The last errors.
      type: list
      elements: str
stations:
  description: The worst state of each station's devices.
  returned: always
  type: dict
  sample: {wlce: VERIFIED_ZERO}
first_write_s:
  description: Seconds until the last device had its first zero write; null when none had.
  returned: always
  type: float
all_verified:
  description: True when every device is C(VERIFIED_ZERO). Never true in check mode.
  returned: always
  type: bool
summary:
  description: One sentence per device.
  returned: always
  type: list
  elements: str
"""

import math
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:
    from stationkeeper.modbus.stop import (
        Endpoint,
        SiteState,
        StopOptions,
        StopResult,
        Target,
        stop_devices,
        worst,
    )
    from stationkeeper.profiles import Profile, ProfileError, load_profile, parse_profile

    MISSING = ""
except ImportError as error:
    MISSING = str(error)

_END = {
    "host": {"type": "str", "required": True},
    "port": {"type": "int", "default": 502},
    "unit": {"type": "int", "default": 1},
    "profile": {"type": "str", "required": True},
    "profile_content": {"type": "dict"},
}
_PACE = ("window_s", "hold_s", "samples", "interval_s", "connect_timeout_s", "response_timeout_s")


def _profile(end: dict[str, Any], path: list[str]) -> Profile:
    if end["profile_content"] is not None:
        return parse_profile(end["profile_content"], f"profile_content of {end['profile']}")
    return load_profile(end["profile"], path)


def _endpoint(end: dict[str, Any], path: list[str]) -> Endpoint:
    return Endpoint(end["host"], end["port"], end["unit"], _profile(end, path))


def _target(device: dict[str, Any], path: list[str]) -> tuple[Target, str]:
    """Return the target, and why its meter cannot be used (or nothing)."""
    meter, problem = None, ""
    try:
        meter = _endpoint(device["meter"], path) if device["meter"] else None
    except ProfileError as error:
        problem = str(error)
    end = _endpoint(device, path)
    return Target(device["station"], device["name"], end, meter, device["rating_kw"]), problem


def _stop(devices: list[dict[str, Any]], path: list[str], options: StopOptions) -> list[StopResult]:
    """Stop what can be stopped: a broken profile costs its own device the proof, and others nothing."""
    results: dict[int, StopResult] = {}
    targets: dict[int, Target] = {}
    unmeasured: dict[int, str] = {}
    for number, device in enumerate(devices):
        try:
            targets[number], problem = _target(device, path)
            if problem:
                unmeasured[number] = problem
        except ProfileError as error:
            endpoint = f"unit {device['unit']} at {device['host']}:{device['port']}"
            results[number] = StopResult(
                device["station"], device["name"], endpoint, SiteState.FAILED, f"nothing was sent: {error}"
            )
    results |= dict(zip(targets, stop_devices(list(targets.values()), options), strict=True))
    for number, problem in unmeasured.items():
        if results[number].state is SiteState.VERIFIED_ZERO:
            results[number].state = SiteState.READBACK_ONLY
            results[number].message = f"zero, but not measured by its meter: {problem}"
    return [results[number] for number in range(len(devices))]


def _diff(results: list[StopResult], *, dry_run: bool) -> dict[str, dict[str, Any]]:
    before, after = {}, {}
    for result in results:
        if not result.changed:
            continue
        before[result.name] = result.before
        after[result.name] = {
            "state": str(result.state),
            "setpoint_kw": 0.0 if dry_run else result.setpoint_kw,
            "power_kw": 0.0 if dry_run else result.power_kw,
            "writes": [
                f"{entry['point']} = {entry['value']:g} (words {entry['words']})" for entry in result.writes
            ],
        }
    return {"before": before, "after": after}


def _refuse_bad_pace(module: AnsibleModule) -> None:
    for name in _PACE:
        value = module.params[name]
        if not math.isfinite(value) or value < 0 or (value == 0 and name != "hold_s"):
            module.fail_json(
                msg=f"{name} must be {'0 or more' if name == 'hold_s' else 'above 0'}, not {value:g}"
            )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "devices": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "station": {"type": "str", "required": True},
                    "name": {"type": "str", "required": True},
                    **_END,
                    "rating_kw": {"type": "float"},
                    "meter": {"type": "dict", "options": _END},
                },
            },
            "profile_path": {"type": "list", "elements": "path", "default": []},
            "window_s": {"type": "float", "default": 15},
            "hold_s": {"type": "float", "default": 5},
            "samples": {"type": "int", "default": 3},
            "interval_s": {"type": "float", "default": 0.5},
            "connect_timeout_s": {"type": "float", "default": 2},
            "response_timeout_s": {"type": "float", "default": 2},
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(
            msg=f"the package stationkeeper cannot be imported ({MISSING}); install it in this Python "
            "(pip install -e . in the repository, or `make setup`) and set ansible_python_interpreter to "
            "{{ ansible_playbook_python }} where this module runs"
        )
    if not module.params["devices"]:
        module.fail_json(msg="devices is empty: nothing would be stopped")
    _refuse_bad_pace(module)
    options = StopOptions(**{name: module.params[name] for name in _PACE}, dry_run=module.check_mode)
    results = _stop(module.params["devices"], module.params["profile_path"], options)
    stations = {
        station: str(worst([result.state for result in results if result.station == station]))
        for station in dict.fromkeys(result.station for result in results)
    }
    module.exit_json(
        changed=any(result.changed for result in results),
        results=[{**asdict(result), "state": str(result.state)} for result in results],
        stations=stations,
        first_write_s=max(
            (result.first_write_s for result in results if result.first_write_s is not None), default=None
        ),
        all_verified=all(result.state is SiteState.VERIFIED_ZERO for result in results),
        summary=[f"{result.name}: {result.state}, {result.message}" for result in results],
        diff=_diff(results, dry_run=module.check_mode),
    )


if __name__ == "__main__":
    main()
