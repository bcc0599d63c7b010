#!/usr/bin/python
"""Take or release the lock of the host that this runs on."""

from __future__ import annotations

DOCUMENTATION = r"""
module: runbook_lock
short_description: Take or release a runbook's lock on the host that it protects
description:
  - A lock is a file on the protected host, with the run that holds it, its owner, purpose and expiry.
  - An expired lock is taken over. So is the lock of a run whose process is found dead; the action plugin of
    the same name finds that out, on the holder's own control node only, and passes O(orphan_of).
  - Taking a lock that the same run holds renews it. Only the run that holds a lock can release it.
  - A lock that another run holds makes the task fail. In check mode nothing is taken or created, and a lock
    that is held is a warning.
options:
  state:
    description: V(acquired) takes the lock, V(released) gives it back.
    type: str
    choices: [acquired, released]
    default: acquired
  scope:
    description: What is protected; the name of the lock's file.
    type: str
    required: true
  run_id:
    description: The run that takes or releases the lock.
    type: str
    required: true
  runbook:
    description: Name of the runbook.
    type: str
    default: ""
  purpose:
    description: What the lock is held for, told to whoever finds it.
    type: str
    default: ""
  owner:
    description: User, node and process of the run, as in C(runbook_run.owner).
    type: dict
    default: {}
  ttl_s:
    description: Seconds after which the lock frees itself.
    type: int
    default: 900
  preempt:
    description: Take the lock from whoever holds it. For emergency stops only.
    type: bool
    default: false
  orphan_of:
    description:
      - Identifier of a run that was found dead. The lock is taken over if that very run holds it.
      - Set by the action plugin.
    type: str
  directory:
    description: Directory of the locks.
    type: path
    default: /var/lib/stationkeeper/locks
attributes:
  check_mode:
    support: full
    description: Takes nothing, but says who holds the lock.
  diff_mode:
    support: none
    description: The result names the holder before and after.
author:
  - Stationkeeper
"""

EXAMPLES = r"""
- name: Take the lock
  ansible.builtin.include_role:
    name: runbook
    tasks_from: lock
"""

RETURN = r"""
held:
  description: Whether this run holds the lock now, or would outside of check mode.
  returned: always
  type: bool
holder:
  description: The record of who holds the lock after this task.
  returned: always
  type: dict
takeover:
  description: Why the lock was taken from another run (expired, orphaned or preempted), or null.
  returned: always
  type: str
displaced:
  description: The record of the run that the lock was taken from.
  returned: when it was taken over
  type: dict
message:
  description: What happened, in one sentence.
  returned: always
  type: str
"""

from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.runbooks.lock import DEFAULT_DIRECTORY, Lock, LockError

ARGUMENT_SPEC = {
    "state": {"type": "str", "choices": ["acquired", "released"], "default": "acquired"},
    "scope": {"type": "str", "required": True},
    "run_id": {"type": "str", "required": True},
    "runbook": {"type": "str", "default": ""},
    "purpose": {"type": "str", "default": ""},
    "owner": {"type": "dict", "default": {}},
    "ttl_s": {"type": "int", "default": 900},
    "preempt": {"type": "bool", "default": False},
    "orphan_of": {"type": "str"},
    "directory": {"type": "path", "default": DEFAULT_DIRECTORY},
}


def main() -> None:
    """Take or release one lock."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    options = module.params
    try:
        lock = Lock(options["scope"], Path(options["directory"]))
        if options["state"] == "released":
            attempt = lock.release(run_id=options["run_id"], dry_run=module.check_mode)
        else:
            attempt = lock.acquire(
                run_id=options["run_id"],
                runbook=options["runbook"],
                purpose=options["purpose"],
                owner=options["owner"],
                ttl_s=options["ttl_s"],
                orphan_of=options["orphan_of"],
                preempt=options["preempt"],
                dry_run=module.check_mode,
            )
    except (LockError, OSError) as error:
        module.fail_json(msg=f"Lock `{options['scope']}` cannot be used: {error}")
    result = {
        "changed": attempt.changed,
        "held": attempt.held,
        "holder": None if attempt.holder is None else asdict(attempt.holder),
        "takeover": attempt.takeover,
        "message": attempt.message,
    }
    if attempt.displaced is not None:
        result["displaced"] = asdict(attempt.displaced)
    if options["state"] == "acquired" and not attempt.held:
        if not module.check_mode:
            module.fail_json(msg=attempt.message, **result)
        module.warn(f"A real run would be refused now. {attempt.message}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
