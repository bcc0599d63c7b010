#!/usr/bin/python
"""Ansible module: keep a unit running from the release in force."""

from __future__ import annotations

DOCUMENTATION = r"""
module: station_service
short_description: Keep a unit enabled and running from the installed release and its current unit file
description:
  - Starts and enables the unit, and restarts it when its process runs from another release than the installed
    one or when its unit file has changed since systemd read it.
  - Decides by what the system shows, so a run that was interrupted leaves nothing undone.
version_added: "0.1.0"
author: Stationkeeper
options:
  name:
    description: The unit, with its suffix.
    type: str
    required: true
  root:
    description: Directory of the releases, see M(station_release).
    type: path
    default: /opt/stationkeeper
attributes:
  check_mode:
    description: Says what it would do.
    support: full
  diff_mode:
    description: Shows the release before and after.
    support: full
"""

EXAMPLES = r"""
- name: Run the controller
  station_service:
    name: bess_controller.service
"""

RETURN = r"""
actions:
  description: What systemctl was (in check mode, would be) asked to do.
  returned: success
  type: list
  elements: str
  sample: [daemon-reload, restart]
release:
  description: The release that the process runs from.
  returned: success
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.station import service


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "default": "/opt/stationkeeper"},
        },
        supports_check_mode=True,
    )
    name, root = module.params["name"], Path(module.params["root"])
    before = service.look(name, root)
    try:
        actions, after = service.ensure(name, root, dry_run=module.check_mode)
    except service.ServiceError as error:
        module.fail_json(msg=f"{error}; see journalctl -u {name}")
    module.exit_json(
        changed=bool(actions),
        actions=actions,
        release=after.release,
        diff={
            "before": f"{before.active}, release {before.release or 'none'}\n",
            "after": f"active, release {after.installed}\n",
        },
    )


if __name__ == "__main__":
    main()
