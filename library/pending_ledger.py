#!/usr/bin/python
"""Keep the list of hosts that a runbook still has to reach."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pending_ledger
short_description: Keep the list of hosts that a runbook still has to reach
description:
  - Adds hosts to, and removes hosts from, a runbook's pending ledger on the control node
    (C(pending/<runbook>.json) in the state directory).
  - Forgets entries that have expired. The file is replaced atomically under a lock.
options:
  directory:
    description: Directory of the ledgers.
    type: path
    required: true
  runbook:
    description: Name of the runbook.
    type: str
    required: true
  present:
    description:
      - Entries to add or renew, as returned by M(runbook_close). A host that waits already keeps its
        C(since).
    type: list
    elements: dict
    default: []
  absent:
    description: Hosts that are done.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: Reports what would be written.
  diff_mode:
    support: full
    description: Shows the waiting hosts before and after.
author:
  - Stationkeeper
"""

EXAMPLES = r"""
- name: Note the host as pending
  pending_ledger:
    directory: /var/lib/stationkeeper/pending
    runbook: edge_emergency_release
    present: "{{ _runbook_close.pending }}"
    absent: "{{ _runbook_close.done }}"
"""

RETURN = r"""
hosts:
  description: Hosts that wait after this task.
  returned: success
  type: list
  elements: str
waiting:
  description: For each host that waits, C(why), C(reason) and C(since) (RFC 3339).
  returned: success
  type: dict
  sample: {wlce: {why: not latched, reason: smoke in the container, since: "2026-01-31T12:00:00+00:00"}}
path:
  description: The ledger's file.
  returned: success
  type: str
"""

from datetime import UTC, datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.runbooks.pending import Entry, Ledger, LedgerError

ARGUMENT_SPEC = {
    "directory": {"type": "path", "required": True},
    "runbook": {"type": "str", "required": True},
    "present": {"type": "list", "elements": "dict", "default": []},
    "absent": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    """Update one ledger."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    ledger = Ledger(Path(module.params["directory"]), module.params["runbook"])
    try:
        before, after = ledger.update(
            add=[Entry(**entry) for entry in module.params["present"]],
            remove=module.params["absent"],
            now=datetime.now(UTC),
            dry_run=module.check_mode,
        )
    except (LedgerError, OSError) as error:
        module.fail_json(msg=str(error))
    except TypeError as error:
        module.fail_json(msg=f"An entry of `present` is malformed: {error}")
    module.exit_json(
        changed=before != after,
        hosts=sorted(after),
        waiting={
            host: {"why": entry.why, "reason": entry.reason, "since": entry.since}
            for host, entry in sorted(after.items())
        },
        path=str(ledger.path),
        diff={"before": "\n".join(sorted(before)) + "\n", "after": "\n".join(sorted(after)) + "\n"},
    )


if __name__ == "__main__":
    main()
