#!/usr/bin/python
"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: runbook_open
short_description: Open a runbook
description:
  - Validates the run against the variable C(runbook) of the play, or refuses with a sentence that says why
    and how to go on.
  - Reads the extra variables as given on the command line, by AWX or by ansible-runner. Unknown ones are
    refused. Variables that AWX adds by itself (C(awx_) and C(tower_)) are recorded.
  - A runbook of risk C(change), C(destructive) or C(safety) needs C(reason); C(destructive) also needs
    C(confirm) equal to C(target). Check mode needs neither.
  - Outside of check mode, refuses risks C(change) and C(destructive) when the audit trail
    holds no START of this run.
  - Resolves C(target) within the runbook's target group. A read-only runbook without C(target) takes the
    whole group. A C(--limit) that leaves out a target is refused.
  - Connects to every target's ssh port at once and waits for the banner; refuses when fewer hosts answer
    than the runbook needs. Hosts of other connection types are not probed.
  - Use it through the role C(runbook), C(tasks_from=open).
options:
  timeout_s:
    description: How many seconds a target has to send its ssh banner.
    type: float
    default: 3.0
attributes:
  check_mode:
    support: full
    description: Changes nothing in either mode.
  diff_mode:
    support: none
    description: There is nothing to compare.
author:
  - Stationkeeper
"""

EXAMPLES = r"""
- name: Open the runbook
  ansible.builtin.include_role:
    name: runbook
    tasks_from: open
"""

RETURN = r"""
run:
  description: What the role C(runbook) sets as fact C(runbook_run).
  returned: success
  type: dict
  contains:
    id:
      description: Identifier of the run, the same as in the audit trail.
      type: str
    name:
      description: Name of the runbook.
      type: str
    title:
      description: Title of the runbook.
      type: str
    risk:
      description: Risk of the runbook.
      type: str
    check_mode:
      description: Whether this run changes nothing.
      type: bool
    inputs:
      description: The runbook's own inputs, typed and with defaults.
      type: dict
    target:
      description: The target pattern as given, or an empty text.
      type: str
    reason:
      description: The reason as given, or an empty text.
      type: str
    ticket:
      description: The ticket as given, or an empty text.
      type: str
    awx:
      description: What AWX says about its job.
      type: dict
    targets:
      description: Every intended host.
      type: list
      elements: str
    reachable:
      description: Intended hosts that answered, or were not probed.
      type: list
      elements: str
    unreachable:
      description: Intended hosts that did not answer, each with the reason.
      type: dict
    required:
      description: On how many hosts the run must succeed.
      type: int
    lock:
      description: Scope and time to live (seconds) of the runbook's lock.
      type: dict
    pending_expiry_hours:
      description: How long unreachable hosts stay in the pending ledger.
      type: int
    owner:
      description: User, node and process of the run.
      type: dict
    started_at:
      description: When the run was opened (UTC).
      type: str
    state_directory:
      description: Where this control node keeps its state.
      type: str
"""
