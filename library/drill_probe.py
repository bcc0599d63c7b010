#!/usr/bin/python
"""Ansible module: a writer that goes on through a drill."""

from __future__ import annotations

DOCUMENTATION = r"""
module: drill_probe
short_description: Write rows through a drill, and count what was lost
description:
  - Runs on the control node. O(state=started) starts a process that writes row after row into
    C(ops.drill_probe) by the path of every client, and records each acknowledged one.
  - O(state=stopped) ends it, and compares what was acknowledged with what is stored. The drill's rows are
    removed.
version_added: "0.4.0"
author: Stationkeeper
options:
  database:
    description: Connection of a user that may insert into, read and delete from C(ops.drill_probe).
  run_id:
    description: The drill's run; it names the rows.
    type: str
    required: true
  directory:
    description: Where the record lies, on the control node.
    type: path
    required: true
  state:
    description: Whether the writer runs.
    type: str
    choices: [started, stopped]
    default: started
  limit_s:
    description: Seconds after which the writer ends by itself.
    type: int
    default: 1800
  fault_at:
    description: >-
      When the fault was injected, in seconds since the epoch by the control node's clock. For
      O(state=stopped).
    type: float
extends_documentation_fragment: [database]
attributes:
  check_mode:
    description: Nothing is started and nothing is written; there is no outcome.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
requirements:
  - the Python package C(stationkeeper) on the control node
"""

EXAMPLES = r"""
- name: Start the writer
  drill_probe:
    database: "{{ stationkeeper_database | combine(operator) }}"
    run_id: "{{ runbook_run.id }}"
    directory: "{{ runbook_run.state_directory }}/drills/{{ runbook_run.id }}"
  vars:
    operator: {user: flux_operator, password: "{{ secret_flux_operator_password }}"}
"""

RETURN = r"""
outcome:
  description: >-
    For O(state=stopped), acknowledged and lost rows, longest_silence_s, rto_s, rpo_s (seconds), and whether
    writes came back (recovered). Null otherwise.
  returned: success
  type: dict
"""

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE

try:
    import psycopg2

    from stationkeeper.drills import probe

    MISSING = None
except ImportError as error:
    MISSING = str(error)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "dict", "required": True, "options": DATABASE},
            "run_id": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "state": {"type": "str", "default": "started", "choices": ["started", "stopped"]},
            "limit_s": {"type": "int", "default": 1800},
            "fault_at": {"type": "float"},
        },
        required_if=[("state", "stopped", ("fault_at",))],
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    if module.check_mode:
        module.exit_json(changed=True, outcome=None)
    directory = Path(params["directory"])
    outcome = None
    try:
        if params["state"] == "started":
            probe.start(params["database"], params["run_id"], directory, params["limit_s"])
        else:
            ended_at = time.time()
            acknowledged = probe.stop(directory)
            stored = probe.stored_rows(params["database"], params["run_id"], remove=True)
            outcome = probe.judge(acknowledged, stored, params["fault_at"], ended_at).as_dict()
    except (probe.ProbeError, psycopg2.Error, OSError) as error:
        module.fail_json(msg=str(error).strip())
    module.exit_json(changed=True, outcome=outcome)


if __name__ == "__main__":
    main()
