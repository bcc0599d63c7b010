#!/usr/bin/python
"""Ansible module: say how long the controller's cycles took."""

from __future__ import annotations

DOCUMENTATION = r"""
module: journal_cycle_time
short_description: Say how long the controller's cycles took
description:
  - From what the controller writes into the journal once a minute, for each device.
version_added: "0.8.0"
author: Stationkeeper
options:
  hours:
    description: How far back to look.
    type: float
    default: 1
  unit:
    description: The controller's unit.
    type: str
    default: bess_controller.service
  cadences:
    description: Seconds between two cycles, by the name of the device. A longer cycle is called slow.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Changes nothing, so it does the same.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Look at the cycles of the last hour
  journal_cycle_time:
    cadences: {WLCE-BESS-01: 2}
"""

RETURN = r"""
devices:
  description: Each device - device, cycles, mean_s, max_s, slowest_at, cadence_s, slow.
  returned: success
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.logs.cycles import WORD, devices
from ansible.module_utils.stationkeeper.logs.journal import JournalError, lines


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "hours": {"type": "float", "default": 1},
            "unit": {"type": "str", "default": "bess_controller.service"},
            "cadences": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    given = module.params
    program = module.get_bin_path("journalctl", required=True)
    try:
        cadences = {str(name): float(seconds) for name, seconds in given["cadences"].items()}
        found = devices(
            lines(program, given["hours"], [given["unit"]], "MESSAGE", f"--grep={WORD}"), cadences
        )
    except (JournalError, TypeError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, devices=[one.as_dict() for one in found])


if __name__ == "__main__":
    main()
