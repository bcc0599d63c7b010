#!/usr/bin/python
"""Ansible module: collect what a host shows of itself, without secrets."""

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence_collect
short_description: Collect what a host shows of itself after somebody broke in
description:
  - Runs on the host as root and reads only. Collects, the fleeting first, processes, sockets, network,
    mapped files of every process, sessions, kernel, units, journal, packages that differ from what was
    installed, and the hash of every file where programs, settings and keys are.
  - Known secrets, and what looks like one, are masked before anything is written. Contents of files and
    environments of processes are not collected.
version_added: "0.6.0"
author: Stationkeeper
options:
  path:
    description: A directory of root's own, into which one compressed text is written for each part.
    type: path
    required: true
  hours:
    description: How far back the journal is read.
    type: float
    default: 72
  known:
    description: Secrets, whose values are masked wherever they turn up.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Names the parts and collects nothing.
    support: full
  diff_mode:
    description: Nothing is changed.
    support: none
"""

EXAMPLES = r"""
- name: Collect the evidence
  evidence_collect:
    path: "{{ folder.path }}"
    hours: 24
"""

RETURN = r"""
parts:
  description: Each part with its lines, SHA-256, the time it was collected at, and what is missing in it.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: processes, lines: 120, sha256: 9f86d0…, collected_at: "2026-11-22T10:00:00+00:00", problem: ""}
"""

from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.access.evidence import collect, parts
from ansible.module_utils.stationkeeper.audit.redact import Redactor


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "hours": {"type": "float", "default": 72},
            "known": {"type": "list", "elements": "str", "default": [], "no_log": True},
        },
        supports_check_mode=True,
    )
    wanted = parts(module.params["hours"])
    if module.check_mode:
        module.exit_json(changed=False, parts=[{"name": name} for name in wanted])
    redactor = Redactor(module.params["known"])
    folder = Path(module.params["path"])
    try:
        found = [collect(name, lines(), folder, redactor) for name, lines in wanted.items()]
    except OSError as error:
        module.fail_json(msg=f"the evidence cannot be written to {folder}: {error}")
    module.exit_json(changed=False, parts=[asdict(one) for one in found])


if __name__ == "__main__":
    main()
