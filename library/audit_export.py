#!/usr/bin/python
"""Ansible module: evidence of a span of time from the audit trail."""

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_export
short_description: Write a bundle of evidence from the audit trail
description:
  - Runs on the control node. Writes a tar.gz with every record from O(since) to O(before), of the chain
    and of those that were put away, with the public keys and a signed manifest of checksums. Then checks it
    as C(stationkeeper audit verify --bundle) does.
  - A bundle that shows that something is wrong with the trail is written all the same, and told.
version_added: "0.6.0"
author: Stationkeeper
options:
  directory:
    description: Folder of the chain. That of this control node's state by default.
    type: path
  since:
    description: Beginning, RFC 3339 with an offset from UTC.
    type: str
    required: true
  before:
    description: End, which is left out, RFC 3339 with an offset from UTC.
    type: str
    required: true
  path:
    description: The file to write. It must not exist.
    type: path
    required: true
  reason:
    description: Why, for the manifest.
    type: str
    required: true
attributes:
  check_mode:
    description: Says how many records there are, and writes nothing.
    support: full
  diff_mode:
    description: What is written is new.
    support: none
"""

EXAMPLES = r"""
- name: Export what happened in October
  audit_export:
    since: "2026-10-01T00:00:00+00:00"
    before: "2026-11-01T00:00:00+00:00"
    path: /srv/evidence/2026-10.tar.gz
    reason: audit of October
"""

RETURN = r"""
ok:
  description: Whether nothing is wrong with the records in it.
  returned: success
  type: bool
path:
  description: The file.
  returned: success
  type: str
records:
  description: Number of records in it.
  returned: success
  type: int
sha256:
  description: Checksum of the bundle. Empty in check mode.
  returned: success
  type: str
problems:
  description: What is wrong with the records in it, a sentence each.
  returned: success
  type: list
  elements: str
"""

import getpass
import hashlib
import tempfile
from datetime import datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

try:
    from stationkeeper.audit.chain import Chain, ChainError
    from stationkeeper.audit.evidence import EvidenceError, export
    from stationkeeper.audit.keys import KeyFileError
    from stationkeeper.audit.paths import AuditPaths
except ImportError:
    export = None  # type: ignore[assignment]  # reported below, with how to install it


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path"},
            "since": {"type": "str", "required": True},
            "before": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "reason": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    if export is None:
        module.fail_json(msg="the stationkeeper package is missing on the control node: run `make setup`")
    given = module.params
    paths = AuditPaths.at(given["directory"])
    since, until = (_moment(module, name) for name in ("since", "before"))
    target = Path(given["path"])
    if target.exists():
        module.fail_json(msg=f"{target} exists already: name another file")
    about = {"reason": given["reason"], "by": getpass.getuser()}
    try:
        with tempfile.TemporaryDirectory() as folder, Chain(paths).locked():
            # Check mode makes it, too, since only a bundle can be checked.
            written = Path(folder) / target.name if module.check_mode else target
            report = export(paths, written, since, until, about)
            checksum = "" if module.check_mode else hashlib.sha256(written.read_bytes()).hexdigest()
    except (ChainError, EvidenceError, KeyFileError, OSError) as error:
        module.fail_json(msg=f"no bundle was written: {error}")
    module.exit_json(
        changed=True,
        ok=report.ok,
        path=str(target),
        records=report.records,
        sha256=checksum,
        problems=[finding.message for finding in report.findings],
    )


def _moment(module: AnsibleModule, name: str) -> datetime:
    text = module.params[name]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        module.fail_json(msg=f"{name} {text!r} is no time with an offset, like 2026-11-01T00:00:00+00:00")
    return moment


if __name__ == "__main__":
    main()
