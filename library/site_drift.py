#!/usr/bin/python
"""Ansible module: what a converge would change on hosts that were converged."""

from __future__ import annotations

DOCUMENTATION = r"""
module: site_drift
short_description: Say what a playbook would change
description:
  - Runs a playbook in check mode on the control node and returns the tasks that would change something, by
    host. No difference is returned, since one may hold a secret.
version_added: "0.7.0"
author: Stationkeeper
options:
  inventory:
    description: The inventory.
    type: path
    required: true
  playbook:
    description: The playbook.
    type: path
    required: true
  hosts:
    description: Hosts to look at; all when empty.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Changes nothing, so it does the same.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
requirements:
  - the Python packages C(stationkeeper) and C(ansible-runner) on the control node
"""

EXAMPLES = r"""
- name: Ask what the site would change
  site_drift:
    inventory: inventories/flux
    playbook: playbooks/site.yml
  delegate_to: localhost
"""

RETURN = r"""
drift:
  description: For each host that was looked at the tasks that would change something.
  returned: success
  type: dict
  sample: {fluxhub: ["redis: Configure Redis"], wlce: []}
unknown:
  description: For each host that was not looked at to the end why.
  returned: success
  type: dict
"""

import os
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

try:
    import ansible_runner

    from stationkeeper.drift import Drift
except ImportError:
    ansible_runner = None


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "inventory": {"type": "path", "required": True},
            "playbook": {"type": "path", "required": True},
            "hosts": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    if ansible_runner is None:
        module.fail_json(msg="the stationkeeper package is missing on the control node: run `make setup`")
    given = module.params
    playbook = Path(given["playbook"]).resolve()
    seen = Drift()
    # The run has an audit record of its own, and ansible-runner its own way to hear of events.
    for name in ("STATIONKEEPER_RUN_ID", "ANSIBLE_STDOUT_CALLBACK"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="stationkeeper-drift-") as directory:
        run = ansible_runner.run(
            private_data_dir=directory,
            project_dir=str(playbook.parent.parent),
            playbook=str(playbook),
            inventory=str(Path(given["inventory"]).resolve()),
            limit=",".join([*given["hosts"], "localhost"]) if given["hosts"] else None,
            cmdline="--check",
            event_handler=seen.take,
            quiet=True,
        )
        said = "" if seen.ended else run.stdout.read()[-2000:]
    if not seen.ended or not seen.hosts:
        module.fail_json(msg=f"{playbook.name} did not begin, or did not come to its end: {said}")
    seen.hosts.pop("localhost", None)
    module.exit_json(changed=False, drift=seen.hosts, unknown=seen.unknown)


if __name__ == "__main__":
    main()
