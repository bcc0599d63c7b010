#!/usr/bin/python
"""Ansible module: write to a Modbus device, and prove it by reading back."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: modbus_write
short_description: Write to a Modbus device and prove it, or say that it is not proven
description:
  - Writes one value, a O(group) of values in order, or a O(recipe) of a device profile, and reads back until
    the value is in force and stays. Only RV(outcome) C(unchanged) and C(verified) are success; a write that
    was asked to be without proof (O(verify.mode=none)) succeeds with a warning.
  - Everything that is wrong in the request itself (not a number, out of bounds, not a multiple of the step,
    a value of several registers in pieces) is refused before a connection is opened.
  - A write whose answer is lost is C(unknown), never "not applied". The connection is then opened anew and
    the register read back before anything is repeated.
  - One run at a time uses an endpoint. Each write that leaves is a row C(WRITE) of the audit chain. While
    that cannot be written, only writes towards zero leave.
  - Runs on the control node (C(ansible_python_interpreter) is C({{ ansible_playbook_python }})) or on a
    station that has the package with its C(control) extra.
options:
  unit:
    description: >-
      Modbus unit, 1 to 247, or 255 for a direct TCP device. 0 is a broadcast, see O(allow_broadcast).
  point:
    description: Point of the profile to write, instead of a description of its register.
    type: str
  value:
    description: Engineering value. Power is + when discharging. A bool is a value only for a bit or coil.
    type: raw
  min:
    description: Smallest value allowed; narrows the profile's limit.
    type: raw
  max:
    description: Largest value allowed; narrows the profile's limit.
    type: raw
  max_step:
    description: Largest difference from the present value.
    type: raw
  rounding:
    description: What to do with a value that is no multiple of the register's step.
    type: str
    choices: [error, nearest]
    default: error
  expect:
    description: Write only when this is the present value.
    type: raw
  semantic:
    description: >-
      C(level) writes only what differs. C(refresh) always writes (watchdog, set-point with a
      reversion timer). C(pulse) always writes, is never repeated, and reads back as something else
      (stop, reset).
    type: str
    choices: [level, refresh, pulse]
    default: level
  function:
    description: >-
      Modbus function. C(auto) is 5 for a coil, 6 for one register, 16 for several. Some bits of a
      register are read, merged, compared and written, or with 22 merged by the device.
    type: str
    choices: [auto, "5", "6", "15", "16", "22"]
    default: auto
  atomic:
    description: >-
      Whether the device takes all registers of a value at once; the profile's C(atomic) where nothing
      is given, otherwise true. If not, such a value is written by a recipe or group only.
    type: bool
  write_only:
    description: The register cannot be read.
    type: bool
  storage:
    description: >-
      Memory behind the register; the profile's where nothing is given, otherwise C(unknown), which
      may be flash.
    type: str
    choices: [ram, flash, unknown]
  min_write_interval_s:
    description: >-
      Shortest time between two writes to a register that is not in C(ram); the profile's where
      nothing is given, 60 without a profile.
    type: float
  zero_is_safe:
    description: >-
      Zero, or less with the same sign, is the safe state of this register: such a write also leaves
      while the audit cannot be written. Known of a profile's set-point.
    type: bool
  group:
    description: Writes in their order, each with the options of a single write (O(point) to O(interlocks)).
    type: list
    elements: dict
  recipe:
    description: Recipe of the profile to write.
    type: str
    choices: [zero_power, stop, release, set_power]
  power_kw:
    description: Power for O(recipe=set_power), + discharges.
    type: raw
  on_partial:
    description: >-
      Recipe that follows when a group or recipe fails on the way; the profile's C(on_partial) (zero
      power) where nothing is given.
    type: str
    choices: [zero_power, stop, release, none]
  write_attempts:
    description: How often a write leaves at most whose fate is unknown; a pulse leaves once.
    type: int
    default: 2
  settle_s:
    description: >-
      The device's longest response time, waited after a time-out before it is asked on a new
      connection; O(response_timeout_s) where nothing is given.
    type: float
  allow_broadcast:
    description: Allow O(unit=0). A broadcast is never proven.
    type: bool
    default: false
  reason:
    description: Why, for the audit.
    type: str
    default: ""
  ticket:
    description: Ticket, for the audit.
    type: str
    default: ""
requirements: ["stationkeeper[control]"]
seealso:
  - module: modbus_read
  - module: modbus_stop
extends_documentation_fragment: [modbus.connection, modbus.register, modbus.verify, modbus.interlocks]
attributes:
  check_mode:
    support: full
    description: >-
      Reads, evaluates interlocks, and returns the exact words; sends no write. Warns where even a read feeds
      the device's watchdog.
  diff_mode:
    support: full
    description: Shows each register before and after, in engineering units and raw.
author: Stationkeeper maintainers
"""

EXAMPLES = r"""
- name: Set the power and prove the set-point in force
  modbus_write:
    host: 192.0.2.21
    unit: 1
    profile: generic_battery
    recipe: set_power
    power_kw: -20
    interlocks:
      - kind: fresh
      - kind: alarms
      - kind: soe_window
    verify: {window_s: 15, samples: 3, hold_s: 4, other_master_cycle_s: 2}
    reason: test charge
  delegate_to: localhost

- name: Raise an export limit that lies in flash, if nobody has touched it since
  modbus_write:
    host: 192.0.2.30
    reference: "40021"
    type: int16
    scale: 0.1
    engineering_unit: kW
    value: 45.5
    min: 0
    max: 50
    expect: 40
    storage: flash
    reason: new grid contract
    ticket: OPS-12
  delegate_to: localhost

- name: Write two settings in order, and bring the battery to zero when the second fails
  modbus_write:
    host: 192.0.2.21
    profile: generic_battery
    group:
      - {point: watchdog_timeout_s, value: 20}
      - {point: power_command_kw, value: 0}
  delegate_to: localhost
"""

RETURN = r"""
outcome:
  description: >-
    C(unchanged), C(verified), C(accepted_unverified), C(unknown), C(rejected), C(contended), C(unreachable)
    or C(blocked_by_interlock); null in check mode for a write that would leave.
  returned: always
  type: str
changed:
  description: The effective value was another one before, or that is not known.
  returned: always
  type: bool
message:
  description: A sentence for the operator.
  returned: always
  type: str
words:
  description: Registers as sent, or as they would be sent. Of a single write.
  returned: for one write
  type: list
  elements: int
before:
  description: The written registers before, with value, text and raw words.
  returned: for one write, when they can be read
  type: dict
after:
  description: The written registers after.
  returned: for one write, when they can be read
  type: dict
evidence:
  description: The samples of the proof, the read-back register before and after, and blocking interlocks.
  returned: for one write
  type: dict
attempts:
  description: Each write request that left, with time, function, words and answer.
  returned: for one write
  type: list
  elements: dict
timings:
  description: Seconds that the write took, and after which it was verified.
  returned: for one write
  type: dict
written:
  description: Names of the writes that are in force, in their order.
  returned: always
  type: list
  elements: str
steps:
  description: Every write of a group or recipe, each with the values above; the last one may have failed.
  returned: always
  type: list
  elements: dict
on_partial:
  description: Writes that followed upon a failure.
  returned: always
  type: list
  elements: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.stationkeeper.modbus.options import MODBUS_WRITE, WRITE

try:
    from stationkeeper.modbus.errors import ModbusError
    from stationkeeper.modbus.writing.device import reads_feed_watchdog
    from stationkeeper.modbus.writing.group import GroupResult
    from stationkeeper.modbus.writing.job import describe, run
    from stationkeeper.modbus.writing.module import write_job

    MISSING = ""
except ImportError as error:
    MISSING = str(error)


def _entries(module: AnsibleModule) -> list[dict[str, Any]] | None:
    """Return the group's entries, validated like a single write."""
    if module.params["group"] is None:
        return None
    entries = []
    for number, entry in enumerate(module.params["group"], start=1):
        checked = ArgumentSpecValidator(WRITE).validate(entry)
        if checked.unsupported_parameters:
            # A plain name, or the path to a name within another option.
            names = [
                name if isinstance(name, str) else ".".join(name) for name in checked.unsupported_parameters
            ]
            module.fail_json(msg=f"group, entry {number}: no such option: {', '.join(sorted(names))}")
        if checked.error_messages:
            module.fail_json(msg=f"group, entry {number}: {'; '.join(checked.error_messages)}")
        entries.append(checked.validated_parameters)
    return entries


def _diff(result: GroupResult) -> dict[str, dict[str, Any]]:
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for step in [*result.steps, *result.on_partial]:
        if step.changed:
            # A register that is written twice shows where it comes from and where it ends.
            old, new = step.diff()
            before.setdefault(step.name, old)
            after[step.name] = new
    return {"before": before, "after": after}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=MODBUS_WRITE,
        mutually_exclusive=[("value", "group", "recipe")],
        required_one_of=[("value", "group", "recipe")],
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(
            msg=f"the package stationkeeper with its extra `control` cannot be imported ({MISSING}); install "
            "it in this Python (pip install -e '.[control]' in the repository, or `make setup`) and set "
            "ansible_python_interpreter to {{ ansible_playbook_python }} where this module runs"
        )
    try:
        job = write_job(module.params, _entries(module), dry_run=module.check_mode)
        if module.check_mode and reads_feed_watchdog(job.profile):
            module.warn(
                "every message feeds this device's watchdog: even this check mode keeps it from falling back"
            )
        result = run(job)
    except ModbusError as error:
        module.fail_json(msg=error.message, outcome=str(error.outcome), changed=False)
    for warning in result.warnings:
        module.warn(warning)
    data = describe(result) | {"diff": _diff(result)}
    if result.failed:
        module.fail_json(msg=f"{result.outcome}: {result.message}", **data)
    module.exit_json(**data)


if __name__ == "__main__":
    main()
