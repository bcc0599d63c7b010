#!/usr/bin/python
"""Ansible module: what a station is configured with, and how it came to that."""

from __future__ import annotations

DOCUMENTATION = r"""
module: edge_config_info
short_description: Read a station's configuration, its releases, its latch and its orders
description:
  - Reads only, on the station, and needs nothing there but python3. The connection to the database
    (C(database.yaml)) holds a password and is not read.
version_added: "0.2.0"
author: Stationkeeper
options:
  directory:
    description: Directory of the controller's configuration.
    type: path
    default: /etc/bess_controller
  state_directory:
    description: Directory with the latch and the orders.
    type: path
    default: /var/lib/bess_controller
attributes:
  check_mode:
    description: Reads only, so it does the same.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Read what the station is configured with
  edge_config_info:
  check_mode: false
"""

RETURN = r"""
files:
  description: Texts of config.yaml, override.yaml and the profiles by their path.
  returned: success
  type: dict
evidence:
  description: Texts of the latch and of the orders by their path. They are never restored.
  returned: success
  type: dict
release:
  description: Content id of the configuration in force, none when it was edited since its release.
  returned: success
  type: str
package:
  description: Content id of the package in force.
  returned: success
  type: str
override_lines:
  description: The lines of override.yaml that change something. Empty when the inventory alone counts.
  returned: success
  type: list
  elements: str
notes:
  description: Sentences on edits, unproven releases and what was put back last.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.station import config_release, history


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/etc/bess_controller"},
            "state_directory": {"type": "path", "default": "/var/lib/bess_controller"},
        },
        supports_check_mode=True,
    )
    directory, state = Path(module.params["directory"]), Path(module.params["state_directory"])
    try:
        told = history.tell(directory, state)
    except (config_release.ConfigReleaseError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **told)


if __name__ == "__main__":
    main()
