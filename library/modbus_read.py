#!/usr/bin/python
"""Ansible module: read values from a Modbus device."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: modbus_read
short_description: Read values from a Modbus device
description:
  - Reads points of a device profile, described registers, or both, each in a request of its own. Scale
    factors that lie in the device are read in the same run.
  - Every answer is checked against its request (transaction, unit, function, length), and each read asks for
    another count of registers than the one before, so a late answer never passes for another value.
  - A value that the device does not have is null and listed in RV(missing); it is never 0.
  - Runs on the control node (C(ansible_python_interpreter) is C({{ ansible_playbook_python }})) or on a
    station that has the package.
options:
  points:
    description: Points of the profile to read.
    type: list
    elements: str
    default: []
requirements: [stationkeeper]
seealso:
  - module: modbus_write
extends_documentation_fragment: [modbus.connection, modbus.registers]
attributes:
  check_mode:
    support: full
    description: Reads as always. Warns where even a read feeds the device's watchdog.
  diff_mode:
    support: none
author: Stationkeeper maintainers
"""

EXAMPLES = r"""
- name: Read power and state of energy
  modbus_read:
    host: 192.0.2.21
    profile: generic_battery
    points: [power_kw, soe_percent]
  delegate_to: localhost
  register: battery

- name: Read two registers that no profile describes
  modbus_read:
    host: 192.0.2.30
    unit: 3
    registers:
      - {name: frequency_hz, reference: "30009", scale: 0.001, engineering_unit: Hz}
      - {name: energy_kwh, table: input, address: 40, type: uint32, word_order: little}
  delegate_to: localhost
"""

RETURN = r"""
values:
  description: The value of each name; null where the device has none.
  returned: success
  type: dict
  sample: {power_kw: 40.003, soe_percent: 50}
readings:
  description: Value, unit, table, address and raw words of each name.
  returned: success
  type: dict
missing:
  description: Names without a value.
  returned: success
  type: list
  elements: str
read_at:
  description: Time after the last answer, UTC. An interlock of M(modbus_write) takes it as C(read_at).
  returned: success
  type: str
outcome:
  description: C(unreachable) or C(rejected) when reading failed.
  returned: failure
  type: str
"""

import asyncio

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.modbus.options import MODBUS_READ

try:
    from stationkeeper.modbus.errors import ModbusError
    from stationkeeper.modbus.read_job import described, read_places
    from stationkeeper.modbus.reading import Reading
    from stationkeeper.modbus.writing.clock import Clock
    from stationkeeper.modbus.writing.device import device_of, profile_of, reads_feed_watchdog
    from stationkeeper.modbus.writing.evidence import stamp
    from stationkeeper.modbus.writing.parameters import raw_place

    MISSING = ""
except ImportError as error:
    MISSING = str(error)


def _read(module: AnsibleModule) -> list[Reading]:
    parameters = module.params
    profile = profile_of(parameters)
    device = device_of(parameters, profile)
    registers = [raw_place(entry) for entry in parameters["registers"]]
    if module.check_mode and reads_feed_watchdog(profile):
        module.warn("every message feeds this device's watchdog, so this read keeps it from falling back")
    return asyncio.run(
        read_places(
            device,
            profile,
            parameters["points"],
            registers,
            clock=Clock(),
            busy_timeout_s=parameters["busy_timeout_s"],
            lock_timeout_s=parameters["lock_timeout_s"],
        )
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=MODBUS_READ, supports_check_mode=True)
    if MISSING:
        module.fail_json(
            msg=f"the package stationkeeper cannot be imported ({MISSING}); install it in this Python "
            "(pip install -e . in the repository, or `make setup`) and set ansible_python_interpreter to "
            "{{ ansible_playbook_python }} where this module runs"
        )
    parameters = module.params
    if not parameters["points"] and not parameters["registers"]:
        module.fail_json(msg="nothing to read: give points (with a profile) or registers")
    if parameters["points"] and parameters["profile"] is None and parameters["profile_content"] is None:
        module.fail_json(msg="points need a profile; describe registers without one by `registers`")
    try:
        readings = _read(module)
    except ModbusError as error:
        module.fail_json(msg=error.message, outcome=str(error.outcome))
    data = described(readings)
    if len(data) < len(readings):
        module.fail_json(msg="two registers have the same name; give each a `name` of its own")
    values = {name: entry["value"] for name, entry in data.items()}
    module.exit_json(
        changed=False,
        values=values,
        readings=data,
        missing=[name for name, value in values.items() if value is None],
        read_at=stamp(Clock().utc()),
    )


if __name__ == "__main__":
    main()
