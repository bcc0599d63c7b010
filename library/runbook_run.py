#!/usr/bin/python
"""Ansible module: run another runbook."""

from __future__ import annotations

DOCUMENTATION = r"""
module: runbook_run
short_description: Run another runbook as its operator would
description:
  - Starts C(ansible-playbook) on the control node with the same inventory, as a run of its own - with its own
    inputs, locks and audit record. For drills, which are to prove the very runbook that is used at three in
    the morning.
  - In check mode the other runbook runs with C(--check).
version_added: "0.4.0"
author: Stationkeeper
options:
  name:
    description: Name of the runbook, or C(site).
    type: str
    required: true
  inputs:
    description: Its inputs.
    type: dict
    default: {}
  inventory:
    description: The inventory that this run was started with.
    type: path
    required: true
  playbooks:
    description: Directory of the playbooks.
    type: path
    required: true
  log:
    description: File on the control node that takes the whole output.
    type: path
    required: true
  timeout_s:
    description: Seconds after which the other run is ended, as by Ctrl-C.
    type: int
    default: 3600
attributes:
  check_mode:
    description: The other runbook runs in check mode.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
"""

EXAMPLES = r"""
- name: Fail over
  runbook_run:
    name: database_failover
    inputs: {target: fluxdb2, confirm: fluxdb2, reason: drill}
    inventory: "{{ stationkeeper_inventory }}"
    playbooks: "{{ playbook_dir }}"
    log: "{{ runbook_run.state_directory }}/drills/{{ runbook_run.id }}/database_failover.log"
"""

RETURN = r"""
rc:
  description: Exit code of the other run.
  returned: always
  type: int
seconds:
  description: How long it took.
  returned: always
  type: float
tail:
  description: The end of its output.
  returned: always
  type: list
  elements: str
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

SHOWN_LINES = 40
# The trail of this run must not be taken for that of the other one.
OWN_VARIABLES = ("STATIONKEEPER_RUN_ID", "STATIONKEEPER_AUDIT_STATE")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "inputs": {"type": "dict", "default": {}},
            "inventory": {"type": "path", "required": True},
            "playbooks": {"type": "path", "required": True},
            "log": {"type": "path", "required": True},
            "timeout_s": {"type": "int", "default": 3600},
        },
        supports_check_mode=True,
    )
    params = module.params
    playbook = Path(params["playbooks"]) / f"{params['name']}.yml"
    if not playbook.is_file():
        module.fail_json(msg=f"{playbook} does not exist", rc=2, seconds=0.0, tail=[])
    log = Path(params["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    inputs = {key: value for key, value in params["inputs"].items() if value is not None}
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [program, "-i", params["inventory"], str(playbook)]
    command += ["--extra-vars", json.dumps(inputs)] if inputs else []
    command += ["--check"] if module.check_mode else []
    environment = {key: value for key, value in os.environ.items() if key not in OWN_VARIABLES}
    began = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=playbook.parent.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=params["timeout_s"])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
            code = process.wait()
    seconds = round(time.monotonic() - began, 2)
    tail = log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
    told = {"rc": code, "seconds": seconds, "tail": tail}
    if code != 0:
        module.fail_json(msg=f"{params['name']} failed with exit code {code}; its output is in {log}", **told)
    module.exit_json(changed=True, **told)


if __name__ == "__main__":
    main()
