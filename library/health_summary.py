#!/usr/bin/python
"""Ansible module: the state of a system from the checks of its hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: health_summary
short_description: Add the checks of all hosts up to the state of a system
description:
  - Runs on the control node. The state is the worst of all checks. A host that was not reached or gave no
    answer, a state that is none of the known ones, and missing telemetry checks are critical. Nothing is ok
    by default.
version_added: "0.1.0"
author: Stationkeeper
options:
  hosts:
    description: Every host that was to be checked.
    type: list
    elements: str
    required: true
  unreachable:
    description: Hosts that could not be reached, each with the reason.
    type: dict
    default: {}
  checks:
    description: For each host, its list of checks (name, state, message).
    type: dict
    required: true
  system:
    description: Checks of the system as a whole, such as database and telemetry.
    type: list
    elements: dict
    required: true
  output:
    description: File on the control node that gets the result as JSON.
    type: path
attributes:
  check_mode:
    description: Writes no O(output).
    support: full
  diff_mode:
    description: The result itself is what there is to see.
    support: none
"""

EXAMPLES = r"""
- name: Add up
  health_summary:
    hosts: [wlce]
    checks: {wlce: [{name: disk, state: ok, message: / has 71 % free}]}
    system: [{name: telemetry, state: ok, message: 2 of 2 devices are fresh}]
"""

RETURN = r"""
state:
  description: The worst state.
  returned: success
  type: str
  sample: ok
table:
  description: Lines for a terminal.
  returned: success
  type: list
  elements: str
host_states:
  description: The worst state of each host, and of V((system\)) for database and telemetry.
  returned: success
  type: dict
counts:
  description: Number of checks in each state.
  returned: success
  type: dict
"""

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

try:
    from stationkeeper.files import write_atomically
    from stationkeeper.health import summary
except ImportError:
    summary = None  # type: ignore[assignment]  # reported below, with how to install it


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "hosts": {"type": "list", "elements": "str", "required": True},
            "unreachable": {"type": "dict", "default": {}},
            "checks": {"type": "dict", "required": True},
            "system": {"type": "list", "elements": "dict", "required": True},
            "output": {"type": "path"},
        },
        supports_check_mode=True,
    )
    if summary is None:
        module.fail_json(msg="the stationkeeper package is missing on the control node: run `make setup`")
    params = module.params
    result = summary.summarise(params["hosts"], params["unreachable"], params["checks"], params["system"])
    changed = False
    if params["output"]:
        text = json.dumps(result.as_dict(), indent=2) + "\n"
        path = Path(params["output"])
        try:
            changed = not path.exists() or path.read_text(encoding="utf-8") != text
            if changed and not module.check_mode:
                write_atomically(path, text, mode=0o644)
        except OSError as error:
            module.fail_json(msg=f"{path} cannot be written: {error.strerror}", state=result.state)
    module.exit_json(
        changed=changed,
        state=result.state,
        table=result.table(),
        counts=result.counts(),
        host_states={host: result.of_host(host) for host in [*params["hosts"], summary.SYSTEM]},
    )


if __name__ == "__main__":
    main()
