#!/usr/bin/python
"""Ansible module: seal a directory of evidence."""

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence_seal
short_description: Seal a directory of evidence with a signed manifest
description:
  - Runs on the control node. Writes C(manifest.json) with the SHA-256 of every file of the directory, signed
    with the key of this control node's audit trail. C(stationkeeper audit verify --sealed) checks it.
version_added: "0.6.0"
author: Stationkeeper
options:
  path:
    description: The directory. It has no manifest yet.
    type: path
    required: true
  directory:
    description: Directory of the audit chain. That of C($STATIONKEEPER_STATE) when left out.
    type: path
  about:
    description: Who asked for it and why, and what is missing.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Writes nothing.
    support: full
  diff_mode:
    description: Names the files.
    support: full
requirements:
  - the Python package C(stationkeeper) on the control node
"""

EXAMPLES = r"""
- name: Seal the evidence
  evidence_seal:
    path: "{{ stationkeeper_state }}/evidence/{{ runbook_run.id }}"
    about: {reason: incident 12}
  delegate_to: localhost
"""

RETURN = r"""
files:
  description: The SHA-256 of each file, by its path.
  returned: success
  type: dict
  sample: {fluxhub/processes.txt.gz: 9f86d0…}
problems:
  description: What reading it again found.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

try:
    from stationkeeper.audit.chain import Chain, ChainError
    from stationkeeper.audit.evidence import EvidenceError, check_sealed, seal
    from stationkeeper.audit.keys import KeyFileError
    from stationkeeper.audit.paths import AuditPaths
except ImportError:
    seal = None  # type: ignore[assignment]  # reported below, with how to install it


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "directory": {"type": "path"},
            "about": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    if seal is None:
        module.fail_json(msg="the stationkeeper package is missing on the control node: run `make setup`")
    given = module.params
    paths = AuditPaths.at(given["directory"])
    folder = Path(given["path"])
    files: dict[str, str] = {}
    problems: list[str] = []
    try:
        if not module.check_mode:
            with Chain(paths).locked():
                files = seal(paths, folder, given["about"])
            problems = [one.message for one in check_sealed(folder, paths.keys).findings]
    except (ChainError, EvidenceError, KeyFileError, OSError) as error:
        module.fail_json(msg=f"the evidence is not sealed: {error}")
    diff = {"prepared": "".join(f"{name}\n" for name in files)}
    module.exit_json(changed=True, files=files, problems=problems, diff=diff)


if __name__ == "__main__":
    main()
