#!/usr/bin/python
"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: runbook_close
short_description: Add up the results of a runbook
description:
  - Puts every intended host into exactly one of the sets ok, changed, failed, unreachable and not_attempted,
    from its fact C(runbook_result), the probe of C(runbook_open) and what the callback C(runbook_watch) saw.
  - A host that says C(ok) or C(changed) although one of its tasks could not reach it counts as unreachable.
  - A reachable host without a usable result is in no set, so the sets do not add up and the run fails.
  - Changes nothing and does not fail by itself; use it through the role C(runbook), C(tasks_from=close).
options: {}
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
- name: Close the runbook
  ansible.builtin.include_role:
    name: runbook
    tasks_from: close
"""

RETURN = r"""
succeeded:
  description: Whether the run did what it had to.
  returned: success
  type: bool
problems:
  description: Every reason for calling the run failed, one sentence each.
  returned: success
  type: list
  elements: str
sets:
  description: Hosts by result set (ok, changed, failed, unreachable, not_attempted).
  returned: success
  type: dict
summary:
  description: The closing table in plain words.
  returned: success
  type: str
pending:
  description: Entries for the pending ledger.
  returned: success
  type: list
  elements: dict
done:
  description: Hosts on which the run succeeded.
  returned: success
  type: list
  elements: str
"""
