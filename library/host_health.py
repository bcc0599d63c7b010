#!/usr/bin/python
"""Ansible module: disk space, clock, failed units and pending reboot of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_health
short_description: Ask a host for disk space, clock, failed units and a pending reboot
description:
  - Reads only. Each check ends in a state V(ok), V(degraded) or V(critical) with a sentence.
  - Needs nothing on the host but python3.
version_added: "0.1.0"
author: Stationkeeper
options:
  paths:
    description: Paths whose file systems must have room.
    type: list
    elements: path
    default: [/]
  reference_time:
    description: The control node's clock, in seconds since 1970 UTC.
    type: float
    required: true
attributes:
  check_mode:
    description: Reads only, so it does the same.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Ask the host how it is
  host_health:
    reference_time: "{{ now(utc=true).timestamp() }}"
  check_mode: false
"""

RETURN = r"""
checks:
  description: A list of checks, each with name, state and message.
  returned: success
  type: list
  elements: dict
  sample: [{name: disk, state: ok, message: / has 71 % free (5.2 GiB)}]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.health import host


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "default": ["/"]},
            "reference_time": {"type": "float", "required": True},
        },
        supports_check_mode=True,
    )
    checks = host.check_host(module.params["paths"], module.params["reference_time"], host.Limits())
    module.exit_json(changed=False, checks=[check.as_dict() for check in checks])


if __name__ == "__main__":
    main()
