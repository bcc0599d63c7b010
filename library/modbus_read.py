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
  host:
    description: >-
      Address of the device or gateway; with O(transport=serial) the path of the line, such as
      C(/dev/ttyUSB0).
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
  transport:
    description: How frames reach the device.
    type: str
    choices: [tcp, rtu_over_tcp, serial]
    default: tcp
  serial:
    description: The serial line, for the transports other than C(tcp).
    type: dict
    suboptions:
      baudrate:
        description: Bits per second.
        type: int
        default: 19200
      parity:
        description: Parity.
        type: str
        choices: ["N", E, O]
        default: E
      stopbits:
        description: Stop bits.
        type: int
        choices: [1, 2]
        default: 1
      local_echo:
        description: The adapter gives back what it sends.
        type: bool
        default: false
  gateway:
    description: >-
      The gateway's own settings on its serial side. Refused when it tries longer than
      O(response_timeout_s).
    type: dict
    suboptions:
      timeout_s:
        description: Seconds that it waits for its device.
        type: float
        required: true
      retries:
        description: How often it asks again.
        type: int
        default: 0
  connect_timeout_s:
    description: Seconds to wait for a connection.
    type: float
    default: 3
  response_timeout_s:
    description: Seconds to wait for an answer; longer than a gateway waits for its device.
    type: float
    default: 3
  busy_timeout_s:
    description: Seconds for which a request is repeated, with growing pauses, while the device is busy.
    type: float
    default: 5
  lock_timeout_s:
    description: Seconds to wait while another run of this host uses the endpoint.
    type: float
    default: 10
  profile:
    description: Name of the device's profile.
    type: str
  profile_content:
    description: The profile itself, instead of the file of that name.
    type: dict
  profile_path:
    description: Directories searched for profiles before the built-in ones.
    type: list
    elements: path
    default: []
  points:
    description: Points of the profile to read.
    type: list
    elements: str
    default: []
  registers:
    description: Registers to read that no profile describes.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Key of the result; table and address where nothing is given.
        type: str
      engineering_unit:
        description: Unit of the value, for messages.
        type: str
      address:
        description: 0-based address of the register, as in the PDU.
        type: int
      reference:
        description: >-
          Instead of address and table, a classic reference such as C("40001") for holding
          register 0.
        type: str
      table:
        description: Address space; C(holding) where nothing is given.
        type: str
        choices: [coil, discrete, input, holding]
      type:
        description: Type of the raw value; C(uint16), or C(bit) in a table of bits, where nothing is given.
        type: str
        choices: [int16, uint16, int32, uint32, int64, uint64, float32, float64, bit]
      word_order:
        description: Which register of several comes first.
        type: str
        choices: [big, little]
        default: big
      byte_order:
        description: Which byte of a register comes first.
        type: str
        choices: [big, little]
        default: big
      scale:
        description: Engineering value = raw value * scale + offset, in decimal arithmetic.
        type: raw
        default: 1
      offset:
        description: Added to the scaled value.
        type: raw
        default: 0
      bit:
        description: Number of the bit in its register, 0 to 15, for type C(bit).
        type: int
      mask:
        description: Bits of the register that are the value, for type C(uint16).
        type: int
      not_implemented:
        description: Raw value by which the device says that it does not have this.
        type: int
requirements: [stationkeeper]
seealso:
  - module: modbus_write
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
