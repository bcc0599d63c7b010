#!/usr/bin/python
"""Ansible module: whether a station's controller is in charge."""

from __future__ import annotations

DOCUMENTATION = r"""
module: edge_status
short_description: Ask a station's controller for unit, running release, metrics, configuration and latch
description:
  - Reads only, on the station. Waits until nothing is wrong, at most O(wait_s) seconds, and reports the last
    look.
  - Never fails by itself; the caller decides what a problem means.
version_added: "0.1.0"
author: Stationkeeper
options:
  unit:
    description: The controller's unit.
    type: str
    default: bess_controller.service
  metrics_url:
    description: Where the controller serves its metrics.
    type: str
    default: http://127.0.0.1:9105/metrics
  devices:
    description: Names of the devices that must have a fresh sample.
    type: list
    elements: str
    required: true
  sample_age_s:
    description: Greatest age of a fresh sample in seconds.
    type: float
    required: true
  wait_s:
    description: How long to wait for the problems to go away, in seconds.
    type: float
    default: 0
  exposure_max:
    description: The unit's exposure (systemd-analyze security) must be below this. Not asked when left out.
    type: float
  latched:
    description: Whether the controller must say that it is latched. Either is fine when left out.
    type: bool
  hold:
    description:
      - What must hold the station at 0 kW - V(safe_mode), V(maintenance) - or that neither may, V(none).
      - Either is fine when left out.
    type: str
    choices: [safe_mode, maintenance, none]
attributes:
  check_mode:
    description: Reads only, so it does the same.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Ask the controller
  edge_status:
    devices: [WLCE-BESS-01]
    sample_age_s: 180
  check_mode: false
"""

RETURN = r"""
problems:
  description: Sentences that say why the controller is not in charge. Empty when it is.
  returned: success
  type: list
  elements: str
notes:
  description: Sentences on what is worth knowing.
  returned: success
  type: list
  elements: str
latched:
  description: Whether the emergency stop is latched, none when the controller does not say.
  returned: success
  type: bool
samples:
  description: For each device age_s, power_kw and soe_percent of its newest sample.
  returned: success
  type: dict
buffer_rows:
  description: Rows that wait for the database.
  returned: success
  type: int
exposure:
  description: The unit's exposure, 0 to 10.
  returned: when asked
  type: float
unit:
  description: The unit's state, number of restarts, the release that runs and the one that is installed.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.station import status


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "str", "default": "bess_controller.service"},
            "metrics_url": {"type": "str", "default": "http://127.0.0.1:9105/metrics"},
            "devices": {"type": "list", "elements": "str", "required": True},
            "sample_age_s": {"type": "float", "required": True},
            "wait_s": {"type": "float", "default": 0},
            "exposure_max": {"type": "float"},
            "latched": {"type": "bool"},
            "hold": {"type": "str", "choices": ["safe_mode", "maintenance", "none"]},
        },
        supports_check_mode=True,
    )
    params = module.params
    expected = status.Expected(
        tuple(params["devices"]),
        params["sample_age_s"],
        params["exposure_max"],
        params["latched"],
        params["hold"],
    )
    seen = status.look(params["unit"], params["metrics_url"], expected, params["wait_s"])
    module.exit_json(changed=False, **seen.as_dict())


if __name__ == "__main__":
    main()
