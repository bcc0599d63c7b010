#!/usr/bin/python
"""Ansible module: which of a station's doors answer the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: edge_reachability
short_description: Knock at the doors of stations - ping, sshd, Modbus, metrics
description:
  - Runs on the control node and asks all stations at once. Reads only.
  - A device with one session is not asked over Modbus, since that would throw its controller out.
version_added: "0.1.0"
author: Stationkeeper
options:
  stations:
    description: The stations.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the station.
        type: str
        required: true
      address:
        description: Its address.
        type: str
        required: true
      ssh_port:
        description: Port of its sshd.
        type: int
        default: 22
      gateway:
        description: Address of the site's VPN gateway or router; not asked when empty.
        type: str
        default: ""
      metrics_port:
        description: Port of the controller's metrics.
        type: int
        default: 9105
      devices:
        description: Its devices as the inventory has them.
        type: list
        elements: dict
        default: []
  timeout_s:
    description: Seconds for one answer.
    type: float
    default: 3
requirements: [stationkeeper]
attributes:
  check_mode:
    description: Reads only, so it does the same.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Knock at every door
  edge_reachability:
    stations:
      - name: wlce
        address: 192.0.2.21
        gateway: 192.0.2.1
        devices: "{{ station_devices }}"
  check_mode: false
"""

RETURN = r"""
stations:
  description: >-
    For each station C(gateway), C(station_ping), C(ssh_port), C(modbus), C(metrics) - true, false, or null
    where not asked - and C(notes).
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

try:
    from stationkeeper.profiles import ProfileError
    from stationkeeper.station.devices import Target
    from stationkeeper.station.reach import Doors, knock_at_all

    MISSING = False
except ImportError:
    MISSING = True


def main() -> None:
    """Run the module."""
    station = {
        "name": {"type": "str", "required": True},
        "address": {"type": "str", "required": True},
        "ssh_port": {"type": "int", "default": 22},
        "gateway": {"type": "str", "default": ""},
        "metrics_port": {"type": "int", "default": 9105},
        "devices": {"type": "list", "elements": "dict", "default": []},
    }
    module = AnsibleModule(
        argument_spec={
            "stations": {"type": "list", "elements": "dict", "required": True, "options": station},
            "timeout_s": {"type": "float", "default": 3},
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(msg="the stationkeeper package is missing on the control node: run `make setup`")
    try:
        doors = [
            Doors(
                entry["name"],
                entry["address"],
                entry["ssh_port"],
                entry["gateway"],
                entry["metrics_port"],
                tuple(Target.of(device) for device in entry["devices"]),
            )
            for entry in module.params["stations"]
        ]
    except (ProfileError, KeyError, ValueError, TypeError) as error:
        module.fail_json(msg=f"A device of the inventory cannot be used: {error}")
    found = knock_at_all(doors, module.params["timeout_s"])
    module.exit_json(changed=False, stations={name: knocked.as_dict() for name, knocked in found.items()})


if __name__ == "__main__":
    main()
